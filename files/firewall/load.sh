# Each table is replaced in one step; a table or a drop-in that is not ours goes.
rm -rf /etc/systemd/system/cabinet-firewall.service.d /etc/systemd/system/cabinet-firewall-base.service.d
rm -rf /run/systemd/system/cabinet-firewall.service.d /run/systemd/system/cabinet-firewall-base.service.d
if systemctl show -p LoadState,NeedDaemonReload cabinet-firewall-base.service cabinet-firewall.service sysinit.target systemd-networkd.service |
	grep -qx -e LoadState=not-found -e NeedDaemonReload=yes; then systemctl daemon-reload; fi
systemctl reload-or-restart cabinet-firewall-base.service
systemctl reload-or-restart cabinet-firewall.service
nft list tables | while read -r _ family name; do
	case "$family $name" in "inet cabinet"|"inet cabinet_base") ;; *) nft destroy table "$family" "$name" ;; esac
done
