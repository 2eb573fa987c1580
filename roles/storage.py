"""storage: whatever can hold patient data lies on one encrypted volume, which opens by itself on this server alone.

Claims: STO-01 to STO-18.  Changes from Debian defaults: a LUKS2 volume at /data, bind-mounted over the directories below; no swap
on a disk; /tmp in memory; no core dumps. Where the clinic names two disks: roles/raid.py.

The scripts in files/storage do what must not go wrong, each in one place: format (only what is blank), open, settle, enrol.
"""

from __future__ import annotations

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import this_clinic
from roles import raid

PACKAGES = [
    "cryptsetup-bin",
    "e2fsprogs",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
    "systemd-cryptsetup",
    "systemd-zram-generator",
]

# Where patient data can end up, and the mode of a directory that Debian has not made. A new line here moves the directory.
DIRECTORIES = {
    "/home": "755",
    "/root": "700",  # .psql_history: queries with names in them
    "/srv": "755",  # documents
    "/var/backups": "755",
    "/var/lib/cabinet": "755",
    "/var/lib/nginx": "755",  # bodies of uploads
    "/var/lib/postgresql": "755",
    "/var/lib/systemd/coredump": "755",
    "/var/local": "2775",
    "/var/log": "755",
    "/var/mail": "2775",
    "/var/opt": "755",
    "/var/spool": "755",
    "/var/tmp": "1777",
}
UNITS = "/etc/systemd/system"
SCRIPTS = "/usr/local/lib/cabinet"
SECRETS = "/var/lib/cabinet/secrets"
KEY = f"{SECRETS}/recovery-key"
# Masked only when the installer's fstab would bring it back; never a unit of ours.
PLAIN_SWAP = "awk 'NR > 1 && $1 !~ \"^/dev/zram\" { print $1 }' /proc/swaps"
SWAP_OFF = f"""for area in $({PLAIN_SWAP}); do
    unit=$(systemd-escape --path --suffix=swap "$area")
    case $(systemctl show -P FragmentPath "$unit") in /run/systemd/generator*) systemctl mask --quiet "$unit" ;; esac
    swapoff "$area"
done"""


# Debian gives these to a service's account; ours need no right to write there. What lies in /etc/postgresql is roles/database.py's.
NOT_THEIRS = "/etc/pgbackrest.conf /etc/postgresql /var/lib/pgbackrest /var/lib/tpm"


@deploy("storage")
def storage() -> None:
    """Make memory stay memory, make the volume, move the directories onto it, and see to who can open it."""
    clinic = this_clinic()
    memory()
    mirrored = clinic.storage.mirror is not None
    disk = f"{raid.ARRAY if mirrored else clinic.storage.disk} {clinic.storage.unlock}"
    for script in ("format-volume", "open-volume", "settle-volume", "enrol-volume", "say-locked"):
        kit.config_file(name=f"STO-09 {script}", dest=f"{SCRIPTS}/{script}", src=f"storage/{script}", check=kit.PARSES, mode="755")
    if mirrored:
        raid.mirrored(clinic.storage)
    kit.script(
        name=f"STO-01 STO-09 STO-10 format the {'mirror' if mirrored else f'disk {clinic.storage.disk}'}, if it is provably blank",
        unless=f"{SCRIPTS}/format-volume --finished {disk}",
        run=f"{SCRIPTS}/format-volume {disk} {'' if mirrored else clinic.storage.wipe or ''}",
    )
    units()
    checked("STO-11 open the volume, now and at boot", "open-volume", disk)
    checked("STO-03 STO-04 STO-05 STO-15 move what can hold patient data onto the volume", "settle-volume")
    kit.script(
        name="STO-08 keep the recovery key to root",
        unless=f"test \"$(stat -c '%a %U %G' {SECRETS} {KEY} | paste -sd ' ')\" = '700 root root 600 root root'",
        run=f"chown root:root {SECRETS} {KEY} && chmod 700 {SECRETS} && chmod 600 {KEY}",
    )
    checked("STO-02 STO-07 let the recovery key and what the clinic chose open it, and nothing else", "enrol-volume", disk)
    kit.script(
        name="STO-04 let only root write beside it",
        unless=f'test "$(stat -c %u {NOT_THEIRS} | sort -u)" = 0',
        run=f"chown root {NOT_THEIRS}",
    )
    kit.unit(name="STO-06 wait for the volume at boot", unit="practice-data.target")
    if mirrored:
        raid.compared()


def checked(name: str, script: str, arguments: str = "") -> None:
    """Run one of our scripts on the server, unless its own --check finds nothing to do."""
    kit.script(name=name, unless=f"{SCRIPTS}/{script} --check {arguments}", run=f"{SCRIPTS}/{script} {arguments}")


def memory() -> None:
    """What is in memory stays there: before the keys of the volume are."""
    kit.config_file(name="STO-12 swap into compressed memory", dest="/etc/systemd/zram-generator.conf", src="storage/zram-generator.conf")
    kit.config_file(name="STO-13 describe /tmp", dest=f"{UNITS}/tmp.mount", src="storage/tmp.mount")
    kit.script(
        name="STO-12 swap to no disk",
        unless=f'test -z "$({PLAIN_SWAP})" && grep -q ^/dev/zram0 /proc/swaps',
        run=f"{SWAP_OFF}\nsystemctl daemon-reload\nsystemctl start dev-zram0.swap",
    )
    kit.script(
        name="STO-13 keep /tmp in memory",
        unless='test "$(findmnt -no FSTYPE /tmp | tail -1)" = tmpfs && systemctl --quiet is-enabled tmp.mount',
        # Debian has a unit of that name; ours is the one as soon as systemd has looked again.
        run=(
            f'test "$(systemctl show -P FragmentPath tmp.mount)" = {UNITS}/tmp.mount || systemctl daemon-reload\n'
            # The links alone: told so over D-Bus, systemd would call all that it knows outdated (kit.enabling).
            "systemctl --quiet --root=/ enable tmp.mount\nsystemctl start tmp.mount"
        ),
    )
    kit.config_file(name="STO-14 describe core dumps", dest="/etc/sysctl.d/90-cabinet-coredumps.conf", src="storage/coredumps.conf")
    kit.script(
        name="STO-14 write no core dumps",
        unless="test \"$(sysctl -n kernel.core_pattern fs.suid_dumpable | paste -sd ' ')\" = '|/bin/false 0'",
        run="sysctl --quiet --load /etc/sysctl.d/90-cabinet-coredumps.conf",
    )


def units() -> None:
    """One mount unit per directory, and the target that stands for all of them."""
    mounts = ["data.mount", *(f"{escaped(path)}.mount" for path in DIRECTORIES)]
    kit.config_file(
        name="STO-03 list the directories",
        dest="/etc/cabinet/volume",
        content="".join(f"{path} {mode}\n" for path, mode in DIRECTORIES.items()),
    )
    kit.config_file(name="STO-03 mount the volume", dest=f"{UNITS}/data.mount", src="storage/data.mount")
    for path in DIRECTORIES:
        kit.config_file(name=f"STO-03 mount {path}", dest=f"{UNITS}/{escaped(path)}.mount", template="storage/bind.mount.j2", path=path)
    kit.config_file(
        name="STO-06 name what the volume holds",
        dest=f"{UNITS}/practice-data.target",
        template="storage/practice-data.target.j2",
        mounts=mounts,
    )
    kit.config_file(name="STO-06 say so when it is locked", dest=f"{UNITS}/practice-locked.service", src="storage/practice-locked.service")
    kit.config_file(
        name="STO-06 wait for it, but not for ever",
        dest=f"{UNITS}/dev-mapper-data.device.d/50-cabinet.conf",
        src="storage/device-timeout.conf",
    )


def escaped(path: str) -> str:
    """How systemd writes a path in the name of a mount unit; the paths above need no more than this."""
    return path.strip("/").replace("-", "\\x2d").replace("/", "-")
