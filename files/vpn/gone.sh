# Is nothing left of a tunnel? roles/vpn.py asks this of a server whose clinic has none.
if ip link show dev vpn; then exit 1; fi
test "$(systemctl show -P LoadState cabinet-vpn)" = not-found
