# Is every value of the file the kernel's own, on every card?
wanted=$(grep -v '^#' /etc/sysctl.d/90-cabinet-network.conf | while read -r key _ value; do
	for file in /proc/sys/$key; do echo "$file:$value"; done
done)
test "$(grep -H '' $(echo "$wanted" | cut -d : -f 1))" = "$wanted"
