# Does the kernel hold exactly what vpn.conf describes, with this server's key, and will systemd set it up again? roles/vpn.py asks this.
# The kernel prints both sides, so spelling does not matter; where a device is now, and what it sent, is left out.
view='wg show vpn dump | awk "NR == 1 { print \$2, \$3, \$4 } NR > 1 { print \$1, \$2, \$4, \$8 }" | sort
	ip -o link show dev vpn | grep -ow UP; ip route show dev vpn'
wanted=$(unshare --net sh -euc "/usr/local/lib/cabinet/vpn $network; $view")
test "$wanted" = "$(sh -euc "$view")"
test "$(systemctl show -p ActiveState,NeedDaemonReload cabinet-vpn)" = 'ActiveState=active
NeedDaemonReload=no'
systemctl show -P Wants multi-user.target | grep -qw cabinet-vpn.service
