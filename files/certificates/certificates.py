"""The practice's own certificate authority: its key was born on this server and signs for this server's names alone.

certificates.py           makes what is missing, renews what ends within 30 days, has the service load it
certificates.py --check   ends with 0 when there is nothing to do

What there must be stands in /etc/cabinet/certificates.json. Debian's python3 and python3-cryptography.
"""

from __future__ import annotations

import datetime
import grp
import hashlib
import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CONFIG = Path("/etc/cabinet/certificates.json")
KEY = Path("/var/lib/cabinet/secrets/authority.key")
TLS = Path("/var/lib/cabinet/tls")
AUTHORITY = TLS / "authority.pem"
# What was found in order at the last look, and from when to when that stays so; gone after a boot.
FOUND = Path("/run/cabinet/certificates.json")
# kit/facts.py
APPLIED = Path("/run/cabinet/applied")


def looked_at() -> str:
    """A digest of all that a look depends on: what the files say, and whose they are."""
    digest = hashlib.sha256()
    for path in (CONFIG, KEY, *sorted(TLS.iterdir())):
        status = path.stat()
        digest.update(f"{path} {status.st_mode} {status.st_uid} {status.st_gid} {status.st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def as_found() -> bool:
    """Whether the last look found everything in order and nothing has changed since; to look anew takes seconds on a slow machine."""
    try:
        found = json.loads(FOUND.read_text())
        return found["since"] <= time.time() < found["until"] and found["files"] == looked_at()
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__" and "--check" in sys.argv[1:] and as_found():
    sys.exit(0)

from cryptography import x509  # noqa: E402 - most of what a look takes
from cryptography.exceptions import InvalidSignature  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID  # noqa: E402

ROOT = 0
DAY = datetime.timedelta(days=1)
AUTHORITY_DAYS = 3650
LEAF_DAYS = 397  # Apple's systems, the strictest, refuse more than 398 (support.apple.com/102028)
RENEW_DAYS = 30
SKEW = datetime.timedelta(hours=1)  # a workstation's clock may be a little late


class Refused(Exception):
    """Something that a person has to decide; the text says what."""


def now() -> datetime.datetime:
    """This server's clock."""
    return datetime.datetime.now(datetime.UTC)


def main(check: bool) -> int:
    """Make or renew what is wanted; with `check` only say whether something is to do."""
    config = json.loads(CONFIG.read_text())
    if subprocess.run(["systemctl", "--quiet", "is-active", "practice-data.target"], check=False).returncode:
        raise Refused("the encrypted volume is not open: keys are born on it and nowhere else; unlock it, then run this again")
    believe_the_clock()
    if check:
        due = [name for name, leaf in config["leaves"].items() if not AUTHORITY.exists() or not KEY.exists() or wanting(name, leaf)]
        print("\n".join(due))
        if not due:
            until = min(end(read(TLS / f"{name}.pem")) for name in config["leaves"]) - RENEW_DAYS * DAY
            FOUND.parent.mkdir(exist_ok=True)
            write(FOUND, json.dumps({"files": looked_at(), "since": time.time(), "until": until.timestamp()}).encode(), 0o600, "root")
        return 1 if due else 0
    key, authority = the_authority(config)
    renewed = [
        leaf["reload"] for name, leaf in config["leaves"].items() if wanting(name, leaf) and issue(name, leaf, key, authority, now())
    ]
    wrong = [
        f"{path} ends on {end(read(Path(path))):%d.%m.%Y}; bring a new one" for path in config["brought"] if ends_soon(read(Path(path)))
    ]
    for unit in renewed:
        if subprocess.run(["systemctl", "try-reload-or-restart", unit], check=False).returncode:  # the others are to take theirs
            wrong.append(f"{unit} does not take its new certificate: systemctl status {unit}")
            continue
        APPLIED.mkdir(parents=True, exist_ok=True)
        (APPLIED / unit).touch()  # to the next deploy the unit is not older than its certificate
    if end(authority) - now() < LEAF_DAYS * DAY:
        wrong.append(
            f"the practice's authority ends on {end(authority):%d.%m.%Y}: plan the change, every workstation has to trust the new one"
        )
    if wrong:
        raise Refused("; ".join(wrong))
    return 0


def believe_the_clock() -> None:
    """Raises Refused outside the authority's own time: what is signed then nobody accepts, and good certificates would be gone for it."""
    if not AUTHORITY.exists():
        return
    authority = read(AUTHORITY)
    says = f"this server's clock says {now():%d.%m.%Y %H:%M} UTC"
    remedy = "set the clock (chronyc tracking, date --set), look at the mainboard's battery, then run this again"
    if now() < authority.not_valid_before_utc:
        raise Refused(
            f"{says}, before the practice's authority was made ({authority.not_valid_before_utc:%d.%m.%Y}), so the clock is wrong; "
            f"no certificate was changed: {remedy}"
        )
    if now() >= end(authority):
        raise Refused(
            f"{says}, and the practice's authority ended on {end(authority):%d.%m.%Y}; no certificate was changed. "
            f"When the clock is wrong: {remedy}. When it is right: move {KEY} and {AUTHORITY} away to begin a new one, "
            "and install it on every workstation"
        )


def the_authority(config: dict[str, Any]) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The authority's key and certificate; made when neither is there. Raises Refused when one of the two was lost or is too narrow."""
    if AUTHORITY.exists() and not KEY.exists():
        raise Refused(
            f"{KEY} is gone: bring it back from the recovery kit; or remove {AUTHORITY} to begin anew, "
            "and install the new one on every workstation"
        )
    if not KEY.exists():
        write(KEY, pem(ec.generate_private_key(ec.SECP384R1())), 0o600, "root")
    key = serialization.load_pem_private_key(KEY.read_bytes(), None)
    if not AUTHORITY.exists():
        write(AUTHORITY, sign_authority(config, key).public_bytes(serialization.Encoding.PEM), 0o644, "root")
    authority = read(AUTHORITY)
    permitted = {name.value for name in authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or ()}
    outside = sorted(str(name.value) for leaf in config["leaves"].values() for name in constraints(leaf) if name.value not in permitted)
    if outside:
        raise Refused(
            f"the practice's authority may not sign for {', '.join(outside)}: move {KEY} and {AUTHORITY} away to begin a new one, "
            "and install it on every workstation"
        )
    return key, authority


def sign_authority(config: dict[str, Any], key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A root that can sign for the names and addresses of this server and for nothing else, so that a stolen key is worth little."""
    subject = x509.Name([
        x509.NameAttribute(NameOID.ORGANIZATION_NAME, config["practice"][:64]),
        x509.NameAttribute(NameOID.COMMON_NAME, f"Authority of this practice, {now():%Y}"),
    ])  # fmt: skip
    permitted = [name for leaf in config["leaves"].values() for name in constraints(leaf)]
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now() - SKEW, now() + AUTHORITY_DAYS * DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )


def constraints(leaf: dict[str, Any]) -> list[x509.GeneralName]:
    """The names of a leaf as an authority's permitted subtrees."""
    return [*map(x509.DNSName, leaf["names"]), *(x509.IPAddress(ipaddress.ip_network(address)) for address in leaf["addresses"])]


def alternatives(leaf: dict[str, Any]) -> list[x509.GeneralName]:
    """The names of a leaf as a certificate carries them."""
    return [*map(x509.DNSName, leaf["names"]), *(x509.IPAddress(ipaddress.ip_address(address)) for address in leaf["addresses"])]


def wanting(name: str, leaf: dict[str, Any]) -> bool:
    """Whether the leaf is missing, near its end, for other names, of another authority, not its key's, or readable by the wrong people."""
    path = TLS / f"{name}.pem"
    try:
        found, authority, status = read(path), read(AUTHORITY), path.stat()
        key = serialization.load_pem_private_key(path.read_bytes(), None)
        found.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return True
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        ends_soon(found)
        or found.not_valid_before_utc > now()
        or list(names) != alternatives(leaf)
        or key.public_key() != found.public_key()
        or (status.st_mode & 0o7777, status.st_uid, status.st_gid) != (mode(leaf), ROOT, grp.getgrnam(leaf["group"]).gr_gid)
    )


def issue(name: str, leaf: dict[str, Any], key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, when: datetime.datetime) -> bool:
    """Write a new key and its certificate, as of `when`, into one file: one rename changes both."""
    own = ec.generate_private_key(ec.SECP256R1())
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    certificate = (
        x509.CertificateBuilder(
            authority.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, (leaf["names"] or leaf["addresses"])[0][:64])]),
            own.public_key(),
            x509.random_serial_number(),
            when - SKEW,
            min(when - SKEW + LEAF_DAYS * DAY, end(authority)),
        )
        .add_extension(x509.SubjectAlternativeName(alternatives(leaf)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, **usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write(TLS / f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM) + pem(own), mode(leaf), leaf["group"])
    print(f"{name}: a new certificate until {end(certificate):%d.%m.%Y}")
    return True


def mode(leaf: dict[str, Any]) -> int:
    """0600; 0640 for a service that reads its key as a user of its own."""
    return 0o600 if leaf["group"] == "root" else 0o640


def read(path: Path) -> x509.Certificate:
    """The first certificate in `path`."""
    return x509.load_pem_x509_certificate(path.read_bytes())


def end(certificate: x509.Certificate) -> datetime.datetime:
    """When a certificate stops to be valid."""
    return certificate.not_valid_after_utc


def ends_soon(certificate: x509.Certificate) -> bool:
    """Whether less than 30 days are left."""
    return end(certificate) - now() < RENEW_DAYS * DAY


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as text; the encrypted volume under it is what protects it at rest."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def write(path: Path, data: bytes, mode: int, group: str) -> None:
    """Put `data` at `path` in one rename, never readable by more than `mode` allows, and on the disk when this returns."""
    staged = path.with_name(f".{path.name}.staged")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), ROOT, grp.getgrnam(group).gr_gid)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    staged.rename(path)


if __name__ == "__main__":
    try:
        sys.exit(main("--check" in sys.argv[1:]))
    except Refused as reason:
        sys.exit(f"certificates: {reason}")
