# Does the kernel hold exactly what the two files describe, and will systemd load them again? roles/firewall.py asks this.
# The kernel prints both sides, so spelling does not matter; -s leaves counters out, -t whom alarms go to at this moment.
view='nft list tables | sort; nft -s list table inet cabinet_base; nft -st list table inet cabinet'
cd /etc/cabinet/nftables
wanted=$(unshare --net sh -euc "cat base.nft cabinet.nft | nft -f -; $view")
test "$wanted" = "$(sh -euc "$view")"
systemd=$(systemctl show -p ActiveState -p DropInPaths -p NeedDaemonReload cabinet-firewall-base cabinet-firewall)
one='ActiveState=active
DropInPaths=
NeedDaemonReload=no'
test "$systemd" = "$one

$one"
systemctl show -P Requires systemd-networkd.service | grep -qw cabinet-firewall-base.service
