# Each table is replaced in one step; a table or a drop-in that is not ours goes, and a copy of it stays (kit/deadman.py knows how).
for directory in /etc/systemd/system /run/systemd/system; do
	for unit in cabinet-firewall cabinet-firewall-base; do
		set_aside "$directory/$unit.service.d"
		rm -rf "$directory/$unit.service.d"
	done
done
if systemctl show -p LoadState,NeedDaemonReload cabinet-firewall-base.service cabinet-firewall.service sysinit.target systemd-networkd.service |
	grep -qx -e LoadState=not-found -e NeedDaemonReload=yes; then systemctl daemon-reload; fi
systemctl reload-or-restart cabinet-firewall-base.service
systemctl reload-or-restart cabinet-firewall.service
nft list tables | while read -r _ family name; do
	case "$family $name" in "inet cabinet"|"inet cabinet_base") ;; *) nft destroy table "$family" "$name" ;; esac
done
