"""`./cabinet peer`: what a device gets, what the clinic file gets, and where the private key is not."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import segno
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kit import clinic, peer
from kit.clinic import load
from kit.connection import Connection
from tests.offline.clinic_mistakes import GOOD

SERVER_KEY = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="


@pytest.fixture
def alger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clinic whose server has a key."""
    path = tmp_path / "clinics/alger.yaml"
    path.parent.mkdir()
    path.write_text(GOOD)
    monkeypatch.setattr(peer.paths, "ROOT", tmp_path)
    answering(monkeypatch, SERVER_KEY)
    return path


def answering(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A server that tells its public key; empty: it has none."""
    said = SimpleNamespace(rc=0 if key else 1, stdout=f"{key}\n".encode())
    monkeypatch.setattr(Connection, "__init__", lambda self, name, _: setattr(self, "name", name))
    monkeypatch.setattr(Connection, "login", lambda _: None)
    monkeypatch.setattr(Connection, "shell", lambda _: SimpleNamespace(run=lambda _: said, close=lambda: None))


def run(*words: str) -> Result:
    return CliRunner().invoke(peer.peer, ["alger", *words])


def public_half(private: str) -> str:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private))
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def test_a_new_device_gets_a_way_in_and_the_clinic_file_an_entry(alger: Path) -> None:
    """Picture and text say the same; the entry, pasted, is what the model takes, and it holds the public half alone."""
    said = run("amina", "tablet").output
    text = said[said.index("# amina-tablet") : said.index("Under vpn.peers")].rstrip("\n") + "\n"
    assert text.splitlines()[1:] == [
        "[Interface]",
        f"PrivateKey = {(private := re.search('PrivateKey = (.*)', text)[1])}",
        "Address = 10.71.0.3/32",
        "",
        "[Peer]",
        f"PublicKey = {SERVER_KEY}",
        "Endpoint = vpn.haddad.example:51820",
        "# The server alone, by the address that it has in the practice; all else goes its usual way.",
        "AllowedIPs = 192.168.10.5/32",
        "# A router at home forgets who is silent.",
        "PersistentKeepalive = 25",
    ]
    picture = io.StringIO()
    segno.make(text, error="l").terminal(out=picture, compact=True)
    assert picture.getvalue() in said
    entry = said.splitlines()[-1]
    assert private not in entry
    alger.write_text(f"{GOOD}{entry}\n")
    added = load(alger).vpn.peers[-1]
    assert (added.name, str(added.address), added.public_key) == ("amina-tablet", "10.71.0.3", public_half(private))


def test_a_device_with_a_key_of_its_own_keeps_it(alger: Path) -> None:
    """What stands in the clinic file gets its configuration as often as it likes, and no private key is made."""
    said = run("karim", "laptop")
    assert said.exit_code == 0 and "Address = 10.71.0.2/32" in said.output
    assert "\nPrivateKey" not in said.output and "Under vpn.peers" not in said.output


def test_a_file_is_its_owners_alone(alger: Path, tmp_path: Path) -> None:
    """Then the terminal shows the picture and the entry; what lies there is not overwritten."""
    path = tmp_path / "tablet.conf"
    said = run("amina", "tablet", "--file", str(path)).output
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("# amina-tablet") and "PrivateKey" not in said and "Under vpn.peers" in said
    again = run("amina", "tablet", "--file", str(path))
    assert (again.exit_code, again.output) == (1, f"Error: {path} is there already; take another name\n")


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (GOOD, ("amna", "tablet"), '"amna" is not in people; did you mean amina?'),
        (GOOD, ("amina", "Tablet"), '"Tablet" is not the name of a device: small letters, digits and -, such as phone'),
        (GOOD[: GOOD.index("vpn:")], ("amina", "tablet"), "clinics/alger.yaml has no vpn; clinics/example.yaml explains it"),
        (
            re.sub(r"  network: 10\.71\.0\.0/24\n(.*\n)*", "  network: 10.71.0.0/29\n  peers:\n", GOOD)
            + "".join(
                f"    - {{person: amina, device: d{at}, address: 10.71.0.{at}, public_key: {'A' * 42}{at}=}}\n" for at in range(1, 7)
            ),
            ("amina", "tablet"),
            "10.71.0.0/29 has no address left; take out a device, or take a larger range",
        ),
    ],
)
def test_who_cannot_have_one_is_told_why(text: str, words: tuple[str, str], said: str, alger: Path) -> None:
    """Before any key is made."""
    alger.write_text(text)
    result = run(*words)
    assert (result.exit_code, result.output) == (1, f"Error: {said}\n")


def test_a_server_without_a_tunnel_is_named(alger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is shown that could not work."""
    answering(monkeypatch, "")
    result = run("amina", "tablet")
    assert (result.exit_code, result.output) == (1, "Error: alger: the server has no VPN yet; deploy first\n")


def test_an_endpoint_may_be_an_ipv6_address(alger: Path) -> None:
    """Its colons are not the port's."""
    alger.write_text(GOOD.replace("vpn.haddad.example", '"fd12::9"'))
    assert "Endpoint = [fd12::9]:51820\n" in run("karim", "laptop").output
    assert clinic.load(alger).vpn.endpoint == "fd12::9"
