# What the files describe becomes so; where they are gone, so goes what they set up. roles/vpn.py runs this, and so does the dead-man switch.
if [ -e /etc/systemd/system/cabinet-vpn.service ]; then
	if systemctl show -p LoadState,NeedDaemonReload cabinet-vpn.service multi-user.target |
		grep -qx -e LoadState=not-found -e NeedDaemonReload=yes; then systemctl daemon-reload; fi
	systemctl reload-or-restart cabinet-vpn.service
else
	systemctl stop cabinet-vpn.service 2>/dev/null || true
	ip link delete dev vpn 2>/dev/null || true
	systemctl daemon-reload
fi
