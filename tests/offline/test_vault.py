"""The file of an off-site host: each mistake is shown where it was made, and the example explains each key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kit.paths import ROOT
from kit.render import rendered
from kit.ruleset import Opening, openings, rulesets
from kit.vault import Vault, inventory, load
from kit.yamlmarks import FileError
from tests.offline.test_clinic import commented_keys, model_keys

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB++/nDNNpf4W3/8/B/RL6KdY+TRdv7O9TdS7Q7FAjTM karim"
FILE = """\
host: vault.atlas.example
connect: {{host: 127.0.0.1, port: 22, bootstrap_user: root, bootstrap_key: {home}/key}}
network: {{interface: eth0, management: [198.51.100.8/29], resolvers: [198.51.100.53]}}
people: [{{name: karim, full_name: Karim Meziane, profile: technician, keys: [KEY]}}]
certificate: {{chain: {home}/chain.pem, key: {home}/key.pem}}
accounts:
  - {{name: haddad, password_file: {home}/password, quota_gib: 1}}
  - {{name: benali, password_file: {home}/password, quota_gib: 2, port: 8444, keep_days: 60, sources: [203.0.113.7]}}
""".replace("KEY", KEY)


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
        ("port: 8444", "port: 8443", "8: accounts[1].port: 8443 is haddad's already; each practice needs one of its own"),
        ("name: benali", "name: haddad", "8: accounts[1].name: haddad is haddad's already; each practice needs one of its own"),
        ("name: benali", "name: locks", '8: accounts[1].name: "locks" means something else to a rest-server; choose another name'),
        ("keep_days: 60", "keep_days: 7", "8: accounts[1].keep_days: 7 is too little; at least 30 is needed"),
        ("quota_gib: 2, ", "", "8: accounts[1].quota_gib: is missing; for example: 200"),
        (
            "sources: [203.0.113.7]",
            "sources: [0.0.0.0/0]",
            "8: accounts[1].sources[0]: 0.0.0.0/0 is everyone; name the networks that are meant",
        ),
        ("bootstrap_user: root, ", "", "2: connect.bootstrap_user: is missing; for example: installer"),
        ("interface: eth0, ", "", "3: network.interface: is missing; for example: enp1s0"),
        ("interface: eth0", "internet: eth0", "3: network.internet: unknown key; did you mean interface?"),
        ("management: [198.51.100.8/29], ", "", "3: network.management: is missing; for example: [192.168.10.0/24]"),
        ("[198.51.100.8/29]", "[0.0.0.0/0]", "3: network.management[0]: 0.0.0.0/0 is everyone; name the networks that are meant"),
        ("resolvers: [198.51.100.53]", "resolvers: []", "3: network.resolvers: at least one is needed"),
        (f", keys: [{KEY}]", "", "4: people[0].keys: karim may log in but has no key; add one, or write login: false"),
        (
            "profile: technician",
            "profile: doctor",
            "4: people: nobody may administer the server; somebody needs a key and the profile administrator or technician",
        ),
        (
            "name: karim",
            "name: vault-benali",
            "4: people[0].name: vault-benali is what the practice's process is called; choose another name",
        ),
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


def test_its_door_is_open_to_whom_the_file_names(home: Path) -> None:
    """SSH to the management networks, each port to its practice; without the full ruleset SSH alone."""
    vault = load(home / "vault.yaml")
    assert openings(vault) == [
        Opening("ssh", "management", 22, None, "ip", ("198.51.100.8/29",)),
        Opening("copies", "haddad", 8443, None, "ip", ("0.0.0.0/0",)),
        Opening("copies", "haddad", 8443, None, "ip6", ("::/0",)),
        Opening("copies", "benali", 8444, None, "ip", ("203.0.113.7",)),
    ]
    base, full = rulesets(vault, [])
    assert [re.findall(r"saddr .* tcp dport (\d+)", text) for text in (base, full)] == [["22"], ["22", "8443", "8443", "8444"]]


def test_little_gets_out_of_it(home: Path) -> None:
    """Names, the web by the filtering proxy, its own address, time; alarms where there is somebody to tell; nothing by whoever else."""
    text = rulesets(load(home / "vault.yaml"), [])[1]
    assert set(re.findall(r'skuid "(.+?)"', text)) == {"systemd-resolve", "proxy", "systemd-network", "_chrony"}
    with (home / "vault.yaml").open("a") as file:
        file.write("alarm: {webhook: {url: https://alarms.atlas.example/vault}}\n")
    text = rulesets(load(home / "vault.yaml"), [])[1]
    assert set(re.findall(r'skuid "(.+?)"', text)) == {"systemd-resolve", "proxy", "systemd-network", "_chrony", "cabinet-alarm"}


def test_its_proxy_waits_for_no_encrypted_volume() -> None:
    """There is none there: the proxy, and with it every update, would wait for ever. Control: a practice's does."""
    assert ["practice-data" in rendered("firewall/squid-unit.conf.j2", on_volume=one) for one in (True, False)] == [True, False]


def test_the_example_explains_every_key() -> None:
    """Each key stands in vaults/example.yaml with a comment right above it; those of alarm are explained where clinics are."""
    text = (ROOT / "vaults/example.yaml").read_text()
    text = re.sub(r"^( *)# (certificate|password_file):", r"\1\2:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)#   ([a-z_]+:)", r"\1  # …\n\1  \2", text, flags=re.MULTILINE)
    explained = dict(commented_keys(text))
    assert [key for key in model_keys(Vault) if not key.startswith("alarm.") and not explained.get(key)] == []


def test_a_host_is_no_practice_of_the_same_name(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection, and the host key that is remembered, are its own."""
    monkeypatch.setattr("kit.vault.VAULTS", home)
    assert inventory() == [("@cabinet/vault.vault", {"vault_file": "vaults/vault.yaml"})]


def test_the_example_is_no_host() -> None:
    """Nothing is deployed to it."""
    assert [name for name, _ in inventory() if "atlas" in name] == []
