"""The mail server and the webhook of the test network: their authority, their certificates, and what the VM's clinic was given by them."""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kit.paths import state_dir

AUTHORITY, PASSWORD, HEADER = "post-authority", "post-password", "post-header"
GIVEN = (AUTHORITY, PASSWORD, HEADER)
LASTS = datetime.timedelta(days=3650)


def given(name: str) -> Path:
    """The file `name` of GIVEN; made in the state directory, with the others, when it is not there yet."""
    if name not in GIVEN:
        raise ValueError(f"state:{name} is not one of {', '.join(f'state:{known}' for known in GIVEN)}")
    directory = state_dir() / "post"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / HEADER).exists():
            key, certificate = signed("Test network")
            _keep(directory / "authority.key", _pem(key))
            _keep(directory / AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM).decode())
            _keep(directory / PASSWORD, f"{secrets.token_urlsafe(18)}\n")
            _keep(directory / HEADER, f"Authorization: Bearer {secrets.token_urlsafe(18)}\n")
    return directory / name


def check_authority(path: Path) -> Path:
    """`path`, if a certificate stands there and no key does."""
    text = path.read_bytes()
    try:
        x509.load_pem_x509_certificates(text)
    except ValueError:
        raise ValueError(f"{path} does not hold a certificate in PEM") from None
    if b"PRIVATE KEY" in text:
        raise ValueError(f"{path} holds a private key; an authority's certificate alone is expected")
    return path


def server_certificate(address: str, trusted: bool = True) -> str:
    """Certificate and key for a server at `address`, as PEM; signed by the test network's authority, or by one that nobody trusts."""
    if not trusted:
        return _leaf(address, *signed("Somebody else"))
    authority = x509.load_pem_x509_certificate(given(AUTHORITY).read_bytes())
    key = serialization.load_pem_private_key((given(AUTHORITY).parent / "authority.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return _leaf(address, key, authority)


def _leaf(address: str, key: ec.EllipticCurvePrivateKey, authority: x509.Certificate) -> str:
    own, certificate = signed(address, key, authority)
    return _pem(own) + certificate.public_bytes(serialization.Encoding.PEM).decode()


def signed(
    name: str, by: ec.EllipticCurvePrivateKey | None = None, authority: x509.Certificate | None = None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """A new key and its certificate: for the server at address `name`, or, without an issuer, an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    # A server whose clock is behind must not take it for one of the future.
    begins = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject if authority else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(begins + LASTS)
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    issuer = by or key
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    if authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    else:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    return key, builder.sign(issuer, hashes.SHA256())


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key.private_bytes(*plain).decode()


def _keep(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
