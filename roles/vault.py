"""vault: an off-site host takes copies of practices and lets nobody change them; what is old goes by its own clock, and it holds no key.

It is deployed by deploy_vault.py, to another machine than most roles; its doors are those of a practice's server (roles/firewall.py,
roles/ssh.py). Changes from Debian defaults: restic-rest-server, for each practice a process, a system user and a port of its own,
append-only, with all that it is asked in the journal; its own unit, which would take whatever comes, is masked; timers for the keeper,
and for its silence. No claims: docs/offsite.md says why.
"""

from __future__ import annotations

import base64
import hashlib
import json

from pyinfra.api import deploy

from kit import operations as kit
from kit.alarms import Alarm
from kit.vault import Account, process_account, this_vault
from roles import alarm, firewall, ssh
from roles.base import installed, practice_command

# Not PACKAGES: those are the practice server's (roles/base.py).
WANTED = ["dbus", "python3", "restic-rest-server", *firewall.PACKAGES, *ssh.PACKAGES]
SYSTEMD = "/etc/systemd/system"
ETC = "/etc/cabinet/vault"
CHAIN, KEY = f"{ETC}/chain.pem", f"{ETC}/key.pem"
STORE = "/srv/vault"
LEDGERS = "/var/lib/cabinet-vault"
KEEPER = ("cabinet-keeper.service", "cabinet-keeper.timer", "cabinet-silence.service", "cabinet-silence.timer")
PROGRAMS = ("judging.py", "keeper.py", "refused.py")
# The rest of roles/alarm.py notices when a practice's server no longer looks at itself; here that is cabinet-silence.timer.
ALARM = "practice-alarm@.service"
SENDING = ("practice-send.service", "practice-send.path", "practice-send.timer")


@deploy("vault")
def prepared() -> None:
    """The programs, and what the doors name: who sends alarms, and what raises one."""
    wanted = this_vault()
    kit.script(
        name="BASE leave Debian's own unit of it alone",
        unless='test "$(systemctl is-enabled restic-rest-server.service)" = masked',
        run="systemctl --quiet mask restic-rest-server.service; systemctl stop restic-rest-server.service 2>/dev/null || true",
    )
    installed(sorted({*WANTED, *(alarm.PACKAGES if wanted.alarm else [])}))
    practice_command()
    kit.directory(name="BASE a place for what waits to be told", path="/var/lib/cabinet")
    alarm.receivers(wanted.alarm or Alarm.model_construct(), wanted.host)
    kit.config_file(name="BASE what raises an alarm", dest=f"{SYSTEMD}/{ALARM}", src=f"backup/{ALARM}")


@deploy("vault")
def vault() -> None:
    """The certificate, each practice's place, and the keeper."""
    wanted = this_vault()
    alarm.units(SENDING, SENDING[1:])
    kit.directory(name="BASE a place for what is secret", path=ETC, mode="700")
    kit.config_file(name="BASE the certificate", dest=CHAIN, content=wanted.certificate.chain.read_text(), mode="644")
    kit.config_file(name="BASE its key", dest=KEY, content=wanted.certificate.key.read_text(), mode="600")
    for path, mode in ((STORE, "711"), (LEDGERS, "700")):
        kit.directory(name=f"BASE {path}", path=path, mode=mode)
    for account in wanted.accounts:
        practice(account)
    keeper(wanted.accounts)


def practice(account: Account) -> None:
    """One practice: whoever breaks out of its process finds nobody else's copies."""
    user, unit, htpasswd = process_account(account.name), f"cabinet-vault-{account.name}.service", f"{ETC}/{account.name}.htpasswd"
    # As rest-server reads it. The password is long and random (kit/offsite.py), so that nobody finds it from a hash.
    verifier = base64.b64encode(hashlib.sha1(account.password_file.read_text().strip().encode()).digest()).decode()
    kit.script(
        name=f"BASE an account for {account.name}",
        unless=f"id -u {user}",
        run=f"echo 'u {user} - \"Keeps the copies of {account.name}\" / /usr/sbin/nologin' | systemd-sysusers -",
    )
    kit.directory(name=f"BASE a place for the copies of {account.name}", path=f"{STORE}/{account.name}", mode="700", owner=user, group=user)
    kit.config_file(
        name=f"BASE what {account.name} is known by", dest=htpasswd, content=f"{account.name}:{{SHA}}{verifier}\n", mode="600"
    )
    kit.config_file(
        name=f"BASE describe what takes the copies of {account.name}",
        dest=f"{SYSTEMD}/{unit}",
        template="vault/cabinet-vault.service.j2",
        account=account,
        htpasswd=htpasswd,
        chain=CHAIN,
        key=KEY,
    )
    kit.unit(name=f"BASE take the copies of {account.name}", unit=unit, config=[f"{SYSTEMD}/{unit}", htpasswd, CHAIN, KEY])


def keeper(accounts: tuple[Account, ...]) -> None:
    """What removes, and what it was told."""
    agreed = [
        {"name": one.name, "keep_days": one.keep_days, "quota": one.quota_gib << 30, "silence_hours": one.silence_hours} for one in accounts
    ]
    kit.config_file(name="BASE what was agreed", dest="/etc/cabinet/vault.json", content=json.dumps(agreed, indent=1) + "\n")
    for program in PROGRAMS:
        kit.config_file(name=f"BASE the keeper, {program}", dest=f"/usr/local/lib/cabinet/{program}", src=f"vault/{program}")
    for unit in KEEPER:
        kit.config_file(name=f"BASE {unit}", dest=f"{SYSTEMD}/{unit}", src=f"vault/{unit}")
    for service, timer in zip(KEEPER[::2], KEEPER[1::2], strict=True):
        kit.unit(name=f"BASE {timer} runs every hour", unit=timer, config=[f"{SYSTEMD}/{service}", f"{SYSTEMD}/{timer}"])
