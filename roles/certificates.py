"""certificates: the practice's own authority and what it signs, for the roles that serve TLS (database, proxy).

A part of these roles, not a role. Each of them can make and heals all of it, because either may be the one that runs.
"""

from __future__ import annotations

import json

from kit import operations as kit
from kit.clinic import Clinic

PACKAGES = ["python3-cryptography"]

SCRIPT = "/usr/local/lib/cabinet/certificates.py"
CONFIG = "/etc/cabinet/certificates.json"
TLS = "/var/lib/cabinet/tls"
SECRETS = "/var/lib/cabinet/secrets"
TIMER = "practice-tls-renew.timer"


def wanted(clinic: Clinic) -> dict[str, object]:
    """What certificates.py is to make: the names of each certificate, who reads its key, who loads it."""
    lan = clinic.network.lan
    addresses = [str(at.ip) for at in (lan.address, lan.address6) if at]
    leaves: dict[str, dict[str, object]] = {
        "database": {
            "names": ["localhost"],
            "addresses": ["127.0.0.1", "::1"],
            "group": "postgres",
            "reload": "postgresql@17-main.service",
        },
    }
    if clinic.proxy.certificate is None:
        leaves["web"] = {"names": list(clinic.proxy.names), "addresses": addresses, "group": "root", "reload": "nginx.service"}
    brought = [f"{TLS}/web.pem"] if clinic.proxy.certificate else []
    return {"practice": clinic.practice, "leaves": leaves, "brought": brought}


def certificates(clinic: Clinic, claim: str, renewal: str) -> None:
    """The authority, its certificates and their daily renewal; `claim` and `renewal` are the ids of the role that calls."""
    kit.directory(name=f"{claim} keep secrets from everybody but root", path=SECRETS, mode="700")
    kit.directory(name=f"{claim} have a place for certificates", path=TLS)
    kit.config_file(name=f"{claim} be able to make certificates", dest=SCRIPT, src="certificates/certificates.py")
    kit.config_file(name=f"{claim} describe the certificates", dest=CONFIG, content=json.dumps(wanted(clinic), indent=1) + "\n")
    kit.script(
        name=f"{claim} make the authority once, and the certificates that are missing or end soon",
        unless=f"python3 -I {SCRIPT} --check && test $(stat -c %a {SECRETS}/authority.key) = 600",
        run=f"chmod -f 600 {SECRETS}/authority.key || true\npython3 -I {SCRIPT}",
    )
    for unit in ("practice-tls-renew.service", TIMER):
        kit.config_file(name=f"{renewal} describe {unit}", dest=f"/etc/systemd/system/{unit}", src=f"certificates/{unit}")
    kit.unit(name=f"{renewal} look every day", unit=TIMER, config=[f"/etc/systemd/system/{TIMER}"])
