"""The door, without a server: what its files say for other clinics than the VM's, and how a second factor is made."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from pathlib import Path

import pytest

from kit import enrol, totp
from kit.clinic import load
from kit.connection import PERSIST_SECONDS
from kit.paths import ROOT
from kit.render import rendered
from practice import breakglass
from practice import enrol as practice_enrol
from roles import ssh

TOKEN = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAAAABHNzaDo="


class Terminal(io.StringIO):
    """Somebody types."""

    def isatty(self) -> bool:
        """They do."""
        return True


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's directories, somewhere else."""
    monkeypatch.setattr(practice_enrol, "SEEDS", tmp_path / "totp")
    monkeypatch.setattr(practice_enrol, "PEOPLE", tmp_path / "people.json")
    monkeypatch.setattr(practice_enrol, "PROVEN", tmp_path / "door-proven")
    monkeypatch.setattr(practice_enrol, "record", lambda what: None)
    monkeypatch.setattr(practice_enrol.os, "geteuid", lambda: 0)
    (tmp_path / "people.json").write_text(json.dumps([{"name": "amina", "login": True}, {"name": "nadia", "login": False}]))
    return tmp_path / "totp"


def asked_for(name: str, **options: bool) -> Namespace:
    """The arguments of `practice enrol`."""
    return Namespace(name=name, **dict.fromkeys(("new", "show", "quiet", "yes"), False) | {"json": True, "png": None} | options)


def test_only_who_has_nothing_but_fido_keys_needs_no_code() -> None:
    """A person with one plain key could log in with that one alone, if the exception were theirs."""
    clinic = load(ROOT / "clinics/vagrant.yaml")
    amina, salim, nadia = clinic.people
    both = amina.model_copy(update={"keys": (*amina.keys, TOKEN)})
    token_alone = salim.model_copy(update={"keys": (TOKEN,)})
    config = ssh.door_files(clinic.model_copy(update={"people": (both, token_alone, nadia)}))[-1].content.decode()
    assert config.count("AuthenticationMethods publickey\n") == 1
    assert config.split("Match User ")[1:] == [
        "salim\n    AuthenticationMethods publickey\n    PubkeyAcceptedAlgorithms sk-ssh-ed25519@openssh.com\n"
    ]
    assert "Match" not in ssh.door_files(clinic)[-1].content.decode()


def test_login_says_how_long_the_server_keeps_it_open() -> None:
    """The connection lasts as long as sshd lets it, and no longer than we say."""
    assert f"UnusedConnectionTimeout {PERSIST_SECONDS // 60}m\n" in rendered("ssh/sshd_config.j2", token_holders=[])


def test_a_seed_is_made_once_and_shown_once(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked again, it is neither made nor shown; only `--new` makes another."""
    assert practice_enrol.main(asked_for("amina")) == 0
    first = enrol.seed_in(json.loads(capsys.readouterr().out)["address"])
    assert practice_enrol.main(asked_for("amina")) == 1
    assert "shown already" in capsys.readouterr().err
    assert practice_enrol.main(asked_for("amina", show=True)) == 0
    assert enrol.seed_in(json.loads(capsys.readouterr().out)["address"]) == first
    assert practice_enrol.main(asked_for("amina", new=True, yes=True)) == 0
    assert enrol.seed_in(json.loads(capsys.readouterr().out)["address"]) != first


@pytest.mark.parametrize(
    ("typed", "code", "shown"),
    [
        (["{}"], 0, True),
        (["000 000", "{}"], 0, True),
        (["é", "000000", "12345"], 1, False),
        ([""], 0, True),
    ],
    ids=["at once", "the second time", "never", "the phone is elsewhere"],
)
def test_at_a_terminal_the_phone_says_a_code(
    seeds: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: int, shown: bool
) -> None:
    """Until it has said one, the seed counts as not shown: asked again, the same one is shown once more."""
    practice_enrol.make("amina")
    seed = (seeds / "amina").read_text().splitlines()[0]
    monkeypatch.setattr(practice_enrol, "show", lambda name, as_json: None)
    right, lines = totp.code(seed, 1_700_000_000 // totp.STEP), "\n".join([*typed, ""])
    monkeypatch.setattr(practice_enrol.time, "time", lambda: 1_700_000_000.0)
    monkeypatch.setattr(practice_enrol.sys, "stdin", Terminal(lines.format(right)))
    assert practice_enrol.main(asked_for("amina", json=False)) == code
    assert (seeds / ".amina.shown").exists() == shown
    assert (seeds / "amina").read_text().splitlines()[0] == seed


def test_a_new_seed_has_to_be_proven_by_whoever_proved_the_door(seeds: Path) -> None:
    """Else the next deploy would believe in a door through which its technician no longer comes."""
    for proven_by, stands in (("salim", True), ("amina", False)):
        practice_enrol.PROVEN.write_text(f"0123456789abcdef {proven_by}\n")
        practice_enrol.make("amina")
        assert practice_enrol.PROVEN.exists() == stands


def test_the_picture_is_for_root_alone(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even for the moment in which it is written; the seed is in no program's arguments."""
    asked = {}
    monkeypatch.setattr(practice_enrol.subprocess, "run", lambda argv, **how: asked.update(how, argv=argv))
    assert practice_enrol.main(asked_for("amina", png="/root/amina.png")) == 0
    assert asked["argv"][-2:] == ["-o", "/root/amina.png"] and asked["umask"] == 0o077
    assert "otpauth" not in " ".join(asked["argv"]) and asked["input"].startswith("otpauth://")


@pytest.mark.parametrize(
    ("hashed", "sealed", "elses"), [("!", None, False), ("$y$a", None, True), ("$y$a", "$y$a\n", False), ("$y$a", "$y$b\n", True)]
)
def test_a_password_of_root_that_was_not_sealed_is_somebody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashed: str, sealed: str | None, elses: bool
) -> None:
    """One that the installer asked for, say; locked is nobody's."""
    monkeypatch.setattr(breakglass, "SEALED", tmp_path / "breakglass")
    monkeypatch.setattr(breakglass, "hash_of_root", lambda: hashed)
    if sealed is not None:
        breakglass.SEALED.write_text(sealed)
    assert breakglass.is_somebody_elses() == elses


def test_a_seed_is_roots_and_good_for_codes(seeds: Path) -> None:
    """160 random bits, readable by nobody else from the first byte."""
    practice_enrol.make("amina")
    assert (seeds / "amina").stat().st_mode & 0o777 == 0o600
    assert seeds.stat().st_mode & 0o777 == 0o700
    seed = (seeds / "amina").read_text().splitlines()[0]
    assert len(seed) == 32
    assert totp.code(seed, 1).isdigit()


@pytest.mark.parametrize("line", ['" DISALLOW_REUSE', '" RATE_LIMIT 5 60', '" WINDOW_SIZE 3'])
def test_other_rules_for_codes_are_put_right_and_the_seed_stays(seeds: Path, line: str) -> None:
    """Without a rule the PAM module is more lenient."""
    practice_enrol.make("amina")
    text = (seeds / "amina").read_text()
    (seeds / "amina").write_text(text.replace(f"{line}\n", ""))
    assert practice_enrol.wrong_with("amina") is not None
    practice_enrol.mend("amina")
    assert (seeds / "amina").read_text() == text


def test_what_the_pam_module_remembers_is_no_difference(seeds: Path) -> None:
    """It writes used codes and times behind the rules; a re-run must not forget them."""
    practice_enrol.make("amina")
    path = seeds / "amina"
    path.write_text(path.read_text().replace("DISALLOW_REUSE", "DISALLOW_REUSE 57000001 57000002").replace("5 60", "5 60 1710000000"))
    assert practice_enrol.wrong_with("amina") is None


def test_who_may_not_log_in_gets_no_second_factor(seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message says who may."""
    assert practice_enrol.main(asked_for("nadia")) == 1
    assert "people who may: amina" in capsys.readouterr().err
    assert not seeds.exists()
