"""alarm: what is wrong with the server reaches a person outside it, encrypted, and nothing about patients goes with it.

Claims: ALM-01 to ALM-07.  Changes from Debian defaults: msmtp, with one account that wants TLS and a certificate that it can verify;
an account of the system that sends; timers that deliver what waits, and that notice when the server no longer looks at itself.
"""

from __future__ import annotations

import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.alarms import Alarm
from kit.clinic import this_clinic

PACKAGES = ["ca-certificates", "msmtp", "nftables"]

# The firewall's rule names it: it exists before the rules are loaded (deploy.py).
ACCOUNT = "cabinet-alarm"
CONFIG = "/etc/cabinet/alarm.json"
# Where msmtp's AppArmor profile lets it read.
MSMTPRC = "/etc/msmtprc"
SYSTEMS_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
AUTHORITY = "/usr/local/share/ca-certificates/cabinet-alarm.pem"
WAY = "/usr/local/lib/cabinet/alarm-way"
SYSTEMD = "/etc/systemd/system"
WAITING = ("practice-send.path", "practice-send.timer", "practice-silence.timer")
UNITS = ("practice-send.service", "practice-silence.service", *WAITING)


@deploy("alarm")
def alarm() -> None:
    """The account, whom it tells and how, and the timers; without the section nobody is told, and `practice status` says so."""
    clinic = this_clinic()
    receivers(clinic.alarm or Alarm.model_construct(), clinic.hostname)
    units(UNITS, WAITING)


def receivers(wanted: Alarm, hostname: str) -> None:
    """The account, whom it tells, and how."""
    kit.script(
        name="ALM-05 an account that does nothing but send",
        unless=f"id -u {ACCOUNT}",
        run=f"echo 'u {ACCOUNT} - \"Sends alarms\" / /usr/sbin/nologin' | systemd-sysusers -",
    )
    if wanted.authority:
        kit.config_file(name="ALM-02 bring the authority to believe", dest=AUTHORITY, content=wanted.authority.read_text())
    else:
        kit.absent(name="ALM-02 believe Debian's authorities", path=AUTHORITY)
    authority = AUTHORITY if wanted.authority else SYSTEMS_AUTHORITIES
    mail(wanted, authority, hostname)
    kit.config_file(
        name="ALM-03 ALM-04 say whom to tell",
        dest=CONFIG,
        content=json.dumps(told(wanted, authority), indent=1) + "\n",
        mode="640",
        group=ACCOUNT,
    )
    kit.config_file(
        name="ALM-05 let it out to whom it tells, while it does",
        dest=WAY,
        template="alarm/alarm-way.j2",
        check=kit.PARSES,
        mode="755",
        ways=wanted.ways,
    )


def mail(wanted: Alarm, authority: str, hostname: str) -> None:
    """What msmtp is told; the password stands in the file, which is the account's to read and nobody else's."""
    if wanted.mail is None:
        kit.absent(name="ALM-01 tell nobody by mail", path=MSMTPRC)
        return
    login = wanted.mail.login
    kit.config_file(
        name="ALM-01 ALM-02 describe how mail goes out",
        dest=MSMTPRC,
        template="alarm/msmtprc.j2",
        mode="640",
        group=ACCOUNT,
        mail=wanted.mail,
        password=login.password_file.read_text().strip() if login else "",
        authority=authority,
        hostname=hostname,
    )


def told(wanted: Alarm, authority: str) -> dict[str, object]:
    """Whom practice/outbox.py tells."""
    found: dict[str, object] = {"mail": list(wanted.mail.to) if wanted.mail else [], "sender": wanted.mail.sender if wanted.mail else ""}
    if wanted.webhook:
        header = wanted.webhook.header_file.read_text().strip() if wanted.webhook.header_file else ""
        found["webhook"] = {"url": wanted.webhook.url, "header": header, "ca": authority}
    return found


def units(names: tuple[str, ...], waiting: tuple[str, ...]) -> None:
    """What hands on, what notices silence, and when."""
    for unit in names:
        claim = "ALM-06 ALM-07" if "silence" in unit else "ALM-04"
        kit.config_file(name=f"{claim} {unit}", dest=f"{SYSTEMD}/{unit}", src=f"alarm/{unit}")
    kit.timers_run("ALM-04 ALM-07 let them run", waiting, names)
