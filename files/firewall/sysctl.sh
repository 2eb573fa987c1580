# Is every value of the file the kernel's own, on every card?
grep -v '^#' /etc/sysctl.d/90-cabinet-network.conf | while read -r key _ value; do
	if grep -qvxF "$value" /proc/sys/$key; then exit 1; fi
done
