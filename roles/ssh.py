"""ssh: the people of its file get in with a key and a code, and nobody else gets in at all.

Claims: SSH-01 to SSH-20.  Changes from Debian defaults: sshd_config, PAM's sshd and sudoers are whole files of ours without
includes; keys lie in /etc/ssh/authorized_keys, seeds in /etc/cabinet/totp; no passwords; the first account loses its rights.
"""

from __future__ import annotations

import json
from hashlib import sha256

from pyinfra.api import deploy

from kit import deadman, enrol
from kit import operations as kit
from kit.deadman import Guarded
from kit.render import content_of, rendered
from kit.sections import Person
from kit.site import Site
from kit.vault import this_site

PACKAGES = ["libpam-google-authenticator", "libpam-lastlog2", "libpam-systemd", "openssh-server", "qrencode", "sudo"]
KEYS = "/etc/ssh/authorized_keys"
ACCOUNTS = "/usr/local/lib/cabinet/accounts"
# Active, at boot too, and started after its configuration was last changed (ctime: nobody can set that back).
RUNS_AS_CONFIGURED = (
    "systemctl --quiet is-active ssh && systemctl --quiet is-enabled ssh && "
    "changed=$(stat -c %Z /etc/ssh/sshd_config /etc/default/ssh /etc/systemd/system/ssh.service.d/cabinet.conf | sort -n | tail -1) && "
    'started=$(systemctl show --timestamp=unix -P ActiveEnterTimestamp ssh) && test "$changed" -le "${started#@}"'
)
# PAM has no checker of its own. What names a module that is not there refuses everybody.
MODULES_EXIST = "for module in $(grep -v '^#' {} | grep -o 'pam_[a-z_]*\\.so'); do ls /usr/lib/*/security/$module >/dev/null; done"
# The promises that the door's files keep, all at once.
ATOMIC = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 15, 16, 17, 19, 20)


@deploy("ssh")
def ssh() -> None:
    """First who may come in, then the door, then somebody comes in through it; only then is every other way closed."""
    site = this_site()
    people(site)
    door(site)
    nobody_else()


def people(site: Site) -> None:
    """Accounts and seeds of those who work here; their keys belong to the door."""
    kit.config_file(name="BASE accounts program", dest=ACCOUNTS, src="ssh/accounts", mode="755")
    described = json.dumps([describe(person) for person in site.people], indent=1) + "\n"
    kit.config_file(name="SSH-09 describe who works here", dest="/etc/cabinet/people.json", content=described, mode="600")
    kit.directory(name="SSH-13 seeds are root's own", path="/etc/cabinet/totp", mode="700")
    kit.directory(name="SSH-13 keys are root's to change", path=KEYS)
    kit.script(
        name=f"SSH-09 one account per person: {', '.join(person.name for person in site.people)}",
        unless=f"{ACCOUNTS} people --check",
        run=f"{ACCOUNTS} people",
    )


def describe(person: Person) -> dict[str, object]:
    """A person as files/ssh/accounts reads them. In /etc/passwd a full name ends at a colon, and for some programs at a comma."""
    full_name = person.full_name.translate({ord(":"): " ", ord(","): " "})
    return {"name": person.name, "full_name": full_name, "login": person.login, "administers": person.administers}


def door(site: Site) -> None:
    """The doors as described, SSH's and the console's; in three minutes it is as it was, unless somebody has come in through it."""
    files = door_files(site)
    who = [person for person in site.people if person.name == site.technician]
    fingerprint = sha256(repr((files, who)).encode()).hexdigest()
    keys = [Guarded(f"{KEYS}/{person.name}", key_lines(person), "ssh-keygen -lf {}") for person in site.people if person.login]
    kit.config_file(
        name="SSH-14 say that log-ins are recorded", dest="/etc/cabinet/banner", template="ssh/banner.j2", practice=site.practice
    )
    kit.script(
        name="SSH-08 a host key, made once",
        unless="test -s /etc/ssh/ssh_host_ed25519_key",
        run='ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key',
    )
    kit.config_file(
        name="SSH-19 say that somebody came in at the console",
        dest="/usr/local/lib/cabinet/console-opened",
        src="ssh/console-opened",
        mode="755",
    )
    kit.directory(name="SSH-20 a place for the time of each one's last log-in", path="/var/lib/lastlog")
    enrol.introduced(name="BASE give the technician a second factor", door=fingerprint)
    deadman.change(
        name=f"{' '.join(f'SSH-{number:02}' for number in ATOMIC)} a key and a code, nothing else",
        switch="ssh",
        files=[*files, *keys],
        live=f"{RUNS_AS_CONFIGURED} && {enrol.was_proven(fingerprint)}",
        # Asked first: to enable what has a SysV script as well takes update-rc.d ten seconds.
        load=f"{kit.reread('ssh')}\nsystemctl --quiet is-enabled ssh || systemctl --quiet --no-reload enable ssh\n"
        f"( {RUNS_AS_CONFIGURED} ) || systemctl restart ssh",
        restore="systemctl daemon-reload; systemctl restart ssh",
        proof=enrol.comes_in(fingerprint),
    )


def door_files(site: Site) -> list[Guarded]:
    """All files that decide who gets in, or as what; they change together or not at all."""
    token_holders = [person.name for person in site.people if person.login and all(key.startswith("sk-") for key in person.keys)]
    sshd_config = rendered("ssh/sshd_config.j2", token_holders=token_holders).encode()
    sudoers = rendered("ssh/sudoers.j2", administrators=[person.name for person in site.administrators]).encode()
    return [
        Guarded("/etc/pam.d/sshd", file_bytes("ssh/pam"), MODULES_EXIST),
        Guarded("/etc/pam.d/login", file_bytes("ssh/pam-console"), MODULES_EXIST),
        Guarded("/etc/default/ssh", file_bytes("ssh/default")),
        Guarded("/etc/systemd/system/ssh.service.d/cabinet.conf", file_bytes("ssh/service.conf")),
        # Neither has a word that a secret could stand behind: a plan shows them, although not everybody may read them.
        Guarded("/etc/sudoers", sudoers, "/usr/sbin/visudo -cqf {}", "440", secret=False),
        Guarded("/etc/ssh/sshd_config", sshd_config, "/usr/sbin/sshd -t -f {}", "600", secret=False),
    ]


def key_lines(person: Person) -> bytes:
    """A person's file of authorized keys."""
    return "".join(f"{key}\n" for key in person.keys).encode()


def file_bytes(src: str) -> bytes:
    """The bytes of files/`src`."""
    return content_of(None, src, None, {})


def nobody_else() -> None:
    """Sessions end, and whoever is not in the file is shut out; this role's own connection was renewed by now."""
    kit.config_file(name="SSH-11 a shell left alone ends", dest="/etc/profile.d/cabinet-idle.sh", src="ssh/idle.sh")
    kit.script(
        name="SSH-09 SSH-18 nobody else may log in, or is at work", unless=f"{ACCOUNTS} strangers --check", run=f"{ACCOUNTS} strangers"
    )
