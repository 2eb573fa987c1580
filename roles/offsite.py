"""offsite: a copy of everything leaves the practice every 15 minutes, encrypted here, to a place where nothing can be deleted from here.

Claims: OFF-01 to OFF-10.  Changes from Debian defaults: restic; an account of the system that sends, reads everything, and writes
nothing; timers that send, that begin a new repository each month, that read a part of what lies there each week, and that restore it
on trial each quarter.
"""

from __future__ import annotations

import hashlib
import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from kit.offsite import Offsite
from roles.alarm import SYSTEMS_AUTHORITIES

PACKAGES = ["ca-certificates", "nftables", "restic"]

# The firewall's rule names it: it exists before the rules are loaded (deploy.py).
ACCOUNT = "cabinet-offsite"
CONFIG = "/etc/cabinet/offsite.json"
AUTHORITY = "/usr/local/share/ca-certificates/cabinet-offsite.pem"
WAY = "/usr/local/lib/cabinet/offsite-way"
HOME = "/var/lib/cabinet/offsite"
SECRETS = "/var/lib/cabinet/secrets"
PASSWORD = f"{SECRETS}/offsite-password"
# Given to the practice, not born here; on the encrypted volume all the same.
LOGIN = "/var/lib/cabinet/offsite-login"
SYSTEMD = "/etc/systemd/system"
SERVICE = "practice-offsite@.service"
DRILL = "practice-offsite-drill.service"
WHATS = ("send", "renew", "verify", "drill")
TIMERS = tuple(f"practice-offsite-{what}.timer" for what in WHATS)


@deploy("offsite")
def offsite() -> None:
    """The account, its keys, where it sends and when; without the section nothing is sent, and `practice status` says so."""
    clinic = this_clinic()
    account()
    if clinic.offsite is None:
        nothing()
        return
    keys()
    way(clinic.offsite)
    units(clinic)


@deploy("offsite")
def reachable() -> None:
    """The way to what was sent before, and nothing that sends: for a server that is not whole yet (kit/restore.py)."""
    wanted = this_clinic().offsite
    if wanted is not None:
        account()
        keys()
        way(wanted)


def account() -> None:
    """Whoever sends, and fetches, is nobody else."""
    kit.script(
        name="OFF-05 an account that does nothing but send",
        unless=f"id -u {ACCOUNT}",
        run=f"echo 'u {ACCOUNT} - \"Sends the copy outside\" / /usr/sbin/nologin' | systemd-sysusers -",
    )


def nothing() -> None:
    """Nobody is sent to. The key stays: what was sent with it still lies there."""
    timers = " ".join(TIMERS)
    kit.script(
        name="OFF-01 send nothing",
        unless=f"! systemctl --quiet is-enabled {timers} 2>/dev/null",
        run=f"systemctl --quiet disable --now {timers}",
    )
    for path in (CONFIG, LOGIN):
        kit.absent(name="OFF-01 name nobody to send to", path=path)


def keys() -> None:
    """The repository's password is born here, once; the vendor, and whoever keeps the copy, never see it."""
    kit.directory(name="OFF-03 a place for secrets", path=SECRETS, mode="700")
    kit.directory(name="OFF-03 a place for what was sent when", path=HOME, mode="700", owner=ACCOUNT, group=ACCOUNT)
    kit.script(
        name="OFF-03 make the password of the copy, once",
        unless=f"test -s {PASSWORD}",
        run=(
            f"if test -e {HOME}/state.json; then echo 'Copies were sent, but their password {PASSWORD} is gone: "
            "put it back from the recovery kit, then deploy again.' >&2; exit 1; fi\n"
            f"umask 077; head -c 48 /dev/urandom | base64 -w 0 > {PASSWORD}.new; sync {PASSWORD}.new; mv {PASSWORD}.new {PASSWORD}"
        ),
    )
    kit.script(
        name="OFF-03 close it to everybody else",
        unless=f"test \"$(stat -c '%a %U %G' {PASSWORD})\" = '600 root root'",
        run=f"chmod 600 {PASSWORD}; chown root:root {PASSWORD}",
    )


def way(wanted: Offsite) -> None:
    """Where it goes, whom it believes, and who may go there."""
    if wanted.authority:
        kit.config_file(name="OFF-04 bring the authority to believe", dest=AUTHORITY, content=wanted.authority.read_text())
    else:
        kit.absent(name="OFF-04 believe Debian's authorities", path=AUTHORITY)
    kit.config_file(
        name="OFF-04 what the account there asks for", dest=LOGIN, content=f"{wanted.password_file.read_text().strip()}\n", mode="600"
    )
    settings = {
        "url": wanted.url,
        "account": wanted.account,
        "authority": AUTHORITY if wanted.authority else SYSTEMS_AUTHORITIES,
        "max_age_minutes": wanted.max_age_minutes,
    }
    kit.config_file(name="OFF-02 OFF-04 OFF-06 say where to, and how old it may become", dest=CONFIG, content=json.dumps(settings) + "\n")
    kit.config_file(
        name="OFF-05 let it out to that place alone",
        dest=WAY,
        template="offsite/offsite-way.j2",
        check=kit.PARSES,
        mode="755",
        host=wanted.host,
        port=wanted.port,
    )


def units(clinic: Clinic) -> None:
    """What sends, and when; known and running in one step, as in roles/timers.py."""
    kit.config_file(name="OFF-01 OFF-02 what sends", dest=f"{SYSTEMD}/{SERVICE}", src=f"offsite/{SERVICE}")
    kit.config_file(name="OFF-08 what restores on trial", dest=f"{SYSTEMD}/{DRILL}", src=f"offsite/{DRILL}")
    # Both follow from the server's name: neighbours send to the same place, and not all at once.
    number = int(hashlib.sha256(f"offsite {clinic.hostname}".encode()).hexdigest(), 16)
    minute, second = number % 15, number // 15 % 60
    sunday = 1 + 7 * (number // 900 % 3)  # the first, the second or the third of January, April, July and October
    schedule = {
        "send": ("OFF-01", f"*:{minute:02}/15:{second:02}", "The copy outside the practice every 15 minutes"),
        "renew": ("OFF-07", f"*-*-* 02:{minute:02}:{second:02}", "A new repository outside the practice each month"),
        "verify": (
            "OFF-07 OFF-09 OFF-10",
            f"Sat *-*-* 04:{minute:02}:{second:02}",
            "A part of the copy outside the practice read every week",
        ),
        "drill": (
            "OFF-08",
            f"Sun *-01,04,07,10-{sunday:02}..{sunday + 6:02} 04:{minute:02}:{second:02}",
            "The copy outside the practice restored on trial each quarter",
        ),
    }
    for what, (claim, calendar, description) in schedule.items():
        kit.config_file(
            name=f"{claim} {description[0].lower()}{description[1:]}",
            dest=f"{SYSTEMD}/practice-offsite-{what}.timer",
            template="offsite/timer.j2",
            calendar=calendar,
            unit=DRILL if what == "drill" else f"practice-offsite@{what}.service",
            description=description,
            persistent=what != "send",
        )
    kit.timers_run("OFF-01 OFF-07 OFF-08 OFF-09 let them run", TIMERS, (*TIMERS, "practice-offsite@send.service", DRILL))
