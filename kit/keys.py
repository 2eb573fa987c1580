"""Public keys, for SSH and for the VPN: which ones a person may bring, and the ones the VM's people are given."""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kit.paths import state_dir

# Wire format of a public key: how many fields follow the type, and how long the one that matters is.
ED25519_BYTES = 32
VPN_KEY_BYTES = 32
RSA_BITS = 3072
TYPES = ("ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa")


def check_public_key(line: str) -> str:
    """`line` when it is one OpenSSH public key of a kind that is accepted; otherwise a ValueError that says why not."""
    if "PRIVATE KEY" in line:
        raise ValueError("this is a private key; take it out of the file, make a new one, and write the line of its .pub file here")
    words = line.split(None, 2)
    if "\n" in line.strip() or len(words) < 2:
        raise ValueError("not a public key; write the one line of a .pub file, such as: ssh-ed25519 AAAA… name")
    kind, encoded = words[0], words[1]
    if kind not in TYPES:
        if kind.startswith("ecdsa-") or kind.startswith("sk-ecdsa-") or kind == "ssh-dss":
            raise ValueError(f"{kind} keys are not accepted; make one with: ssh-keygen -t ed25519")
        raise ValueError(f"begins with {kind}; a public key begins with {', '.join(TYPES)}, without options before it")
    try:
        fields = _fields(base64.b64decode(encoded, validate=True))
    except (binascii.Error, ValueError):
        raise ValueError(f"the {kind} key is damaged: its second word is not whole; copy the .pub file's line again") from None
    if fields[0] != kind.encode():
        inside = fields[0].decode(errors="replace")
        raise ValueError(f"says {kind}, but its second word holds a {inside} key; copy the .pub file's line again")
    if kind == "ssh-rsa":
        bits = int.from_bytes(fields[2] if len(fields) > 2 else b"", "big").bit_length()
        if bits < RSA_BITS:
            raise ValueError(f"an RSA key of {bits} bits is too short; at least {RSA_BITS}, or make one with: ssh-keygen -t ed25519")
    elif len(fields) < 2 or len(fields[1]) != ED25519_BYTES:
        raise ValueError(f"the {kind} key is damaged: its second word is not whole; copy the .pub file's line again")
    return line.strip()


def material(line: str) -> str:
    """What makes two keys the same: type and key, without the comment."""
    return " ".join(line.split()[:2])


def check_vpn_key(text: str) -> str:
    """`text` when it can be a WireGuard public key; otherwise a ValueError. A private one looks the same, so neither is repeated."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != VPN_KEY_BYTES:
        raise ValueError("not a WireGuard public key; write the 44 characters that WireGuard on the device shows")
    return text


def vpn_pair() -> tuple[str, str]:
    """A new private key for WireGuard, and its public one."""
    private = X25519PrivateKey.generate()
    public = private.public_key()
    return base64.b64encode(private.private_bytes_raw()).decode(), base64.b64encode(public.public_bytes_raw()).decode()


def vm_public_key(person: str) -> str:
    """The SSH key of one of the VM's people; the pair is made in the state directory when it is not there yet.

    Each checkout has its own pairs, so that no private key ever lies in the tree.
    """
    return _kept(person, f"{person}.pub", _make_pair)


def vm_vpn_key(device: str) -> str:
    """The same for a device of one of them, and the VPN."""
    return _kept(device, f"{device}.wg.pub", _make_vpn_pair)


def _kept(name: str, public: str, make: Callable[[Path, str], None]) -> str:
    directory = state_dir() / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        # Two runs at once must not mix the halves of two pairs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / public).exists():
            make(directory, name)
    return (directory / public).read_text().strip()


def _make_vpn_pair(directory: Path, device: str) -> None:
    private, public = vpn_pair()
    secret = directory / f"{device}.wg"
    secret.touch(mode=0o600)
    secret.write_text(private)
    (directory / f"{device}.wg.pub").write_text(public)


def _make_pair(directory: Path, person: str) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        new = Path(scratch) / person
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{person} of the VM", "-f", str(new)], check=True)
        new.replace(directory / person)
        new.with_suffix(".pub").replace(directory / f"{person}.pub")
    if os.geteuid() == 0:
        # As root, ssh runs as the owner of the state directory and must be able to read its keys.
        owner = state_dir().stat()
        for path in (directory, directory / ".lock", directory / person, directory / f"{person}.pub"):
            shutil.chown(path, owner.st_uid, owner.st_gid)


def _fields(raw: bytes) -> list[bytes]:
    fields = []
    while raw:
        length = int.from_bytes(raw[:4], "big")
        if len(raw) < 4 + length or length == 0:
            raise ValueError("cut off")
        fields.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    if not fields:
        raise ValueError("empty")
    return fields
