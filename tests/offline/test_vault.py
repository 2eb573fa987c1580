"""The file of an off-site host: each mistake is shown where it was made, and the example explains each key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kit.paths import ROOT
from kit.vault import Vault, inventory, load
from kit.yamlmarks import FileError
from tests.offline.test_clinic import commented_keys, model_keys

FILE = """\
host: vault.atlas.example
certificate: {{chain: {home}/chain.pem, key: {home}/key.pem}}
accounts:
  - {{name: haddad, password_file: {home}/password, quota_gib: 1}}
  - {{name: benali, password_file: {home}/password, quota_gib: 2, port: 8444, keep_days: 60, sources: [203.0.113.7]}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A host's file, and what it names."""
    for name, text in (("chain.pem", "x"), ("key.pem", "x"), ("password", "twenty-characters-and-more"), ("vault.yaml", FILE)):
        (tmp_path / name).write_text(text.format(home=tmp_path))
    return tmp_path


def test_a_good_one(home: Path) -> None:
    """Control: what is left out is what the example says."""
    haddad, benali = load(home / "vault.yaml").accounts
    assert (haddad.port, haddad.keep_days, haddad.silence_hours, haddad.sources) == (8443, 35, 2, ())
    assert (benali.port, benali.keep_days, [str(one) for one in benali.sources]) == (8444, 60, ["203.0.113.7/32"])


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("port: 8444", "port: 8443", "5: accounts[1].port: 8443 is haddad's already; each practice needs one of its own"),
        ("name: benali", "name: haddad", "5: accounts[1].name: haddad is haddad's already; each practice needs one of its own"),
        ("name: benali", "name: locks", '5: accounts[1].name: "locks" means something else to a rest-server; choose another name'),
        ("keep_days: 60", "keep_days: 7", "5: accounts[1].keep_days: 7 is too little; at least 30 is needed"),
        ("quota_gib: 2, ", "", "5: accounts[1].quota_gib: is missing; for example: 200"),
    ],
)
def test_a_mistake_is_shown_where_it_was_made(good: str, bad: str, said: str, home: Path) -> None:
    """Before any host is touched."""
    path = home / "vault.yaml"
    text = path.read_text()
    assert text.count(good) == 1, "control: the mistake is made in one place"
    path.write_text(text.replace(good, bad))
    with pytest.raises(FileError) as refused:
        load(path)
    assert str(refused.value) == f"{path}:{said}"


def test_the_example_explains_every_key() -> None:
    """Each key stands in vaults/example.yaml with a comment right above it; those of alarm are explained where clinics are."""
    text = (ROOT / "vaults/example.yaml").read_text()
    text = re.sub(r"^( *)# (certificate|password_file):", r"\1\2:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)#   ([a-z_]+:)", r"\1  # …\n\1  \2", text, flags=re.MULTILINE)
    explained = dict(commented_keys(text))
    assert [key for key in model_keys(Vault) if not key.startswith("alarm.") and not explained.get(key)] == []


def test_the_example_is_no_host() -> None:
    """Nothing is deployed to it."""
    assert [name for name, _ in inventory() if "atlas" in name] == []
