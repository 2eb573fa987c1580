"""Packages upgraded by the server itself: their scripts and their own configuration leave ours alone, and the plan is still empty."""

from __future__ import annotations

from testinfra.host import Host

from kit import deployment
from kit.clinic import Clinic
from roles.base import all_packages

# As unattended-upgrades does it: nobody is asked, and a configuration that was changed stays. Installed again, because the archive
# has nothing newer on the day of the test: the same scripts run, on the same files.
AGAIN = (
    "DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "
    "install --reinstall {}"
)
# Whose files ours stand in for, and whatever we install: what their scripts do concerns us.
OWNERS = "dpkg -S $(cut -c 67- /etc/cabinet/manifest) 2>/dev/null | grep -v '^diversion' | sed 's/: .*//; s/, /\\n/g' | sort -u"
RUNNING = "timeout 300 systemctl is-system-running --wait"
UNPACKED = "grep -c ' upgrade ' /var/log/dpkg.log || true"


def test_after_an_upgrade_the_plan_is_still_empty(host: Host, clinic: Clinic) -> None:
    """Every package that we install, and each that a file of ours belongs to. Control: dpkg says that it unpacked them."""
    assert deployment.planned_changes("vagrant") == []
    assert host.run(RUNNING).stdout.strip() == "running", f"control: before it too {host.run('systemctl --failed').stdout}"
    owners = host.check_output(OWNERS).split()
    assert {"openssh-server", "sudo", "squid"} <= set(owners), "control: files of ours that belong to packages"
    packages = sorted({*all_packages(clinic), *owners})
    host.check_output("apt-get -q update")
    before = int(host.check_output(UNPACKED))
    done = host.run(AGAIN.format(" ".join(packages)), timeout=1800)
    assert done.rc == 0, f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert int(host.check_output(UNPACKED)) - before == len(packages), "control: dpkg did not unpack all of them"
    assert host.run(RUNNING).stdout.strip() == "running", host.run("systemctl --failed").stdout
    assert deployment.planned_changes("vagrant") == []
