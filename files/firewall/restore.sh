# The old files are back; where there were none, there was no firewall.
systemctl daemon-reload
nft delete table inet cabinet_warm 2>/dev/null || true
if [ -e /etc/cabinet/nftables/base.nft ]; then
	systemctl reload-or-restart cabinet-firewall-base.service cabinet-firewall.service
else
	nft destroy table inet cabinet
	nft destroy table inet cabinet_base
fi
