"""base: what all slices stand on: their packages in one transaction, the host's name and time zone, the practice command, the stamp.

Claims: SYS-01 to SYS-04.  Changes from Debian defaults: no recommended packages; apt waits for its lock.
"""

from __future__ import annotations

import importlib
import pkgutil

from pyinfra.api import deploy

import roles
from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from kit.paths import ROOT
from kit.revision import revision
from roles import raid

# The files that may act with somebody else's rights: becoming root after a log-in with two factors, checking a console password,
# starting system services over D-Bus, and keeping an agent's memory from its own user.
SETUID = (
    "/usr/bin/ssh-agent",
    "/usr/bin/sudo",
    "/usr/lib/dbus-1.0/dbus-daemon-launch-helper",
    "/usr/sbin/unix_chkpwd",
)
STRANGERS = "find / -xdev -type f -perm /6000 " + " ".join(f"! -path {path}" for path in SETUID)
PACKAGES = ["ca-certificates", "python3", "dbus"]
# dpkg-query prints one line per package that is installed; comm names the ones that are not.
MISSING = r"""dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u | comm -23 /dev/fd/3 - 3<<'PACKAGES'
%s
PACKAGES
"""


def all_packages(clinic: Clinic) -> list[str]:
    """The Debian packages of every slice, sorted, and what this clinic's own disks need."""
    modules = (importlib.import_module(f"roles.{module.name}") for module in pkgutil.iter_modules(roles.__path__))
    asked = raid.WANTED if clinic.storage.mirror else []
    return sorted({package for module in modules for package in getattr(module, "PACKAGES", [])} | {*asked})


@deploy("base")
def base() -> None:
    """Install, name, and set the clock's zone."""
    clinic = this_clinic()
    short_name = clinic.hostname.split(".")[0]
    packages(clinic)
    kit.config_file(
        name="BASE name the server",
        dest="/etc/hosts",
        template="base/hosts.j2",
        hostname=clinic.hostname,
        address=clinic.network.lan.address.ip,
    )
    kit.script(
        name="BASE set host name and time zone",
        unless=f'test "$(cat /etc/hostname) $(readlink -f /etc/localtime)" = "{short_name} /usr/share/zoneinfo/{clinic.timezone}"',
        run=f"hostnamectl set-hostname {short_name}\ntimedatectl set-timezone {clinic.timezone}",
    )
    kit.script(
        name="SYS-02 take setuid from every file that does not need it",
        unless=f'test -z "$({STRANGERS})"',
        # The override outlives an upgrade of the package that the file comes from.
        run=f"files=$({STRANGERS})\n"
        "for file in $(dpkg -S $files 2>/dev/null | sed 's/^.*: //'); do\n"
        '  dpkg-statoverride --force-all --add root root 755 "$file" 2>/dev/null || true\ndone\n'
        "chmod 755 $files",
    )
    practice_command()


def packages(clinic: Clinic) -> None:
    """One transaction for all slices; services stay down until their role has configured them."""
    kit.config_file(name="BASE let apt wait for its lock", dest="/etc/apt/apt.conf.d/60cabinet", src="base/apt.conf")
    # Debian makes a cluster of its own when PostgreSQL is installed; ours needs checksums and the encrypted volume.
    kit.config_file(
        name="BASE leave the making of clusters to us",
        dest="/etc/postgresql-common/createcluster.conf",
        src="base/createcluster.conf",
    )
    if clinic.storage.mirror:
        raid.described()  # before its package makes an initramfs
    kit.laid_beforehand(name="BASE lay down what no package brings, so that systemd reads it once")
    installed(all_packages(clinic))


def installed(wanted: list[str]) -> None:
    """These packages, in one transaction in which nothing starts."""
    missing = MISSING % "\n".join(wanted)
    kit.config_file(name="SYS-03 install without starting anything", dest="/usr/local/lib/cabinet/install", src="base/install", mode="755")
    kit.script(
        name=f"BASE install {len(wanted)} packages and what they need, in one go",
        unless=f'test -z "$({missing})"',
        run=f"/usr/local/lib/cabinet/install {' '.join(wanted)}",
    )


def practice_command() -> None:
    """The server's side of Cabinet, for the people who work there."""
    kit.tree(
        name="BASE bring the practice command",
        path="/usr/local/lib/cabinet/practice",
        files={path.name: path.read_bytes() for path in sorted((ROOT / "practice").glob("*.py"))},
    )
    kit.config_file(name="BASE let people call it", dest="/usr/local/bin/practice", src="base/practice", mode="755")


@deploy("base")
def stamp() -> None:
    """Write down which revision of this tree was carried out to its end, and what it left."""
    kit.config_file(name="SYS-01 stamp the revision", dest=kit.STAMP, content=f"{revision()}\n")
    kit.file_list(name="SYS-04 list what lies where, so that it is seen what others alter")
