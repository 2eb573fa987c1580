"""The clinic file: good ones load, and each mistake is shown where it was made, with what would be right."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from kit import clinic as model
from kit.clinic import Clinic, ClinicError, load
from kit.paths import ROOT
from tests.offline.clinic_mistakes import AMINA, GOOD, MISTAKES, RSA_3072, SECURITY_KEY

NAME = "alger.yaml"

# Files that hold no clinic at all: what is in them, and what is said.
NO_CLINIC: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "alger.yaml:1: the file is empty; a clinic as in clinics/example.yaml is expected"),
    "comments alone": (b"# later\n", "alger.yaml:1: the file is empty; a clinic as in clinics/example.yaml is expected"),
    "a list": (b"# people\n- amina\n- karim\n", "alger.yaml:2: a list; a clinic as in clinics/example.yaml is expected"),
    "a word": (b"practice\n", "alger.yaml:1: a single value; a clinic as in clinics/example.yaml is expected"),
    "not UTF-8": (
        "practice: Cabinet Haddad\nlocale: é\n".encode("latin-1"),
        "alger.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8",
    ),
    "a program": (b"\x7fELF\x02\x01\x01\x00", "alger.yaml:1: the character U+007F may not stand in YAML; remove it"),
    "lists without end": (b"practice: " + b"[" * 300 + b"]" * 300, "alger.yaml:1: lists within lists, too deep to be meant"),
    "more lists without end": (b"practice: " + b"[" * 600 + b"]" * 600, "alger.yaml:1: lists within lists, too deep to be meant"),
}


def written(directory: Path, text: str | bytes) -> Path:
    """A clinic file with `text`."""
    path = directory / NAME
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaints(path: Path) -> str:
    """What is said about the file, without its directory."""
    with pytest.raises(ClinicError) as refused:
        load(path)
    return str(refused.value).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(("good", "bad", "said"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_shown_where_it_was_made(good: str, bad: str, said: str, tmp_path: Path) -> None:
    """The whole of what is said, to the letter: no mistake is hidden and none is made up."""
    assert GOOD.count(good) == 1, "control: the mistake is made in one place"
    assert complaints(written(tmp_path, GOOD.replace(good, bad))) == f"{NAME}:{said}"


@pytest.mark.parametrize(("raw", "said"), NO_CLINIC.values(), ids=list(NO_CLINIC))
def test_a_file_that_holds_no_clinic(raw: bytes, said: str, tmp_path: Path) -> None:
    """What is not a clinic at all is said in one line."""
    assert complaints(written(tmp_path, raw)) == said


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """A misspelt file name is guessed; a directory is named as one."""
    (tmp_path / "oran.yaml").write_text(GOOD)
    assert complaints(tmp_path / "orna.yaml") == "orna.yaml: there is no such file; did you mean oran.yaml?"
    assert complaints(tmp_path / "nowhere" / NAME) == f"{NAME}: there is no such file"
    assert complaints(tmp_path) == f"{tmp_path.name}: a directory; a file is expected"


def test_all_mistakes_are_shown_at_once(tmp_path: Path) -> None:
    """YAML's traps, wrong keys, wrong values and what contradicts itself come together, in the order of the file."""
    text = GOOD.replace('"22:30"', "22:30").replace("keep_days", "keep_daly").replace("Africa/Algiers", "Algiers")
    text = text.replace("name: karim", "name: amina").replace("WD-WX12A3456789", "S5GXNX0R123456")
    assert complaints(written(tmp_path, text)).splitlines() == [
        'alger.yaml:8: timezone: "Algiers" is not a time zone; did you mean Africa/Algiers?',
        "alger.yaml:25: people[1].name: two people are called amina; each needs a name of their own",
        'alger.yaml:35: backup.differential: YAML reads 22:30 without quotes as the number 1350; write "22:30"',
        "alger.yaml:36: backup.keep_daly: unknown key; did you mean keep_days?",
    ]


def test_whatever_is_lost_from_a_file_nothing_worse_than_a_complaint_comes_of_it(tmp_path: Path) -> None:
    """Each line taken out, and the file cut off in many places: it loads, or ClinicError says why not."""
    lines = GOOD.splitlines(keepends=True)
    damaged = ["".join(lines[:at] + lines[at + 1 :]) for at in range(len(lines))] + ["".join(lines[:at]) for at in range(0, len(lines), 4)]
    outcomes = {loads(written(tmp_path, text)) for text in damaged}
    assert outcomes == {True, False}, "control: some of these files are good, and some are bad"


def loads(path: Path) -> bool:
    """Whether the file is a clinic; if not, each line of the complaint begins with its place."""
    try:
        load(path)
    except ClinicError as bad:
        strays = [line for line in str(bad).splitlines() if not line.startswith(f"{path}:")]
        assert strays == []
        return False
    return True


def test_a_good_clinic_is_typed_and_does_not_change(tmp_path: Path) -> None:
    """What is left out has its default, what is written has its type, and nobody changes it afterwards."""
    clinic = load(written(tmp_path, GOOD))
    assert clinic.network.lan.address.network == ip_network("192.168.10.0/24")
    assert clinic.network.sources("ssh") == (ip_network("192.168.10.0/28"),)
    assert clinic.network.sources("https") == (ip_network("192.168.10.0/24"), ip_network("fd12::/64"))
    assert (clinic.backup.max_age_hours, clinic.storage.unlock, clinic.egress.hosts) == (26, "tpm2", ())
    assert clinic.technician == "karim"
    with pytest.raises(ValidationError, match="frozen"):
        clinic.hostname = "other.haddad.example"


@pytest.mark.parametrize("key", [RSA_3072, SECURITY_KEY])
def test_other_keys_that_are_strong_enough(key: str, tmp_path: Path) -> None:
    """Hardware keys and long RSA keys are accepted as they were written."""
    assert load(written(tmp_path, GOOD.replace(AMINA, key))).people[0].keys == (key,)


def test_the_example_loads() -> None:
    """Nobody copies a mistake from it."""
    assert load(ROOT / "clinics/example.yaml").practice == "Cabinet Haddad"


def test_the_example_explains_every_key() -> None:
    """Each key of the model stands in clinics/example.yaml with a comment right above it, and no key is only mentioned."""
    text = (ROOT / "clinics/example.yaml").read_text()
    # What names a file on the technician's machine is commented out, there being none; its section says what it is.
    text = re.sub(r"^( *)# (certificate|login|header_file|authority|offsite):", r"\1\2:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)#   ([a-z_]+:)", r"\1  # …\n\1  \2", text, flags=re.MULTILINE)
    explained = dict(commented_keys(text))
    keys = list(model_keys(Clinic))
    assert len(keys) > 50, "control: the model was walked"
    assert [key for key in keys if not explained.get(key)] == []


def model_keys(part: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key of the model, with the keys above it."""
    for name, field in part.model_fields.items():
        yield above + name
        for inner in classes_in(field.annotation):
            yield from model_keys(inner, f"{above}{name}.")


def classes_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models within a type such as `tuple[Person, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from classes_in(inner)


def commented_keys(text: str) -> Iterator[tuple[str, bool]]:
    """Every key of a YAML text, and whether a comment stands right above it; of a list, the first entry."""
    lines = text.splitlines()

    def walk(node: yaml.Node, above: str) -> Iterator[tuple[str, bool]]:
        if isinstance(node, yaml.SequenceNode):
            yield from walk(node.value[0], above)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield above + key.value, lines[key.start_mark.line - 1].lstrip().startswith("#")
                yield from walk(value, f"{above}{key.value}.")

    return walk(yaml.compose(text), "")


def test_the_vms_people_have_keys_of_this_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`state:NAME` makes a pair outside the tree, once, that nobody else can read."""
    monkeypatch.setenv("CABINET_STATE", str(tmp_path))
    for module in ("keys", "post"):
        monkeypatch.setattr(f"kit.{module}.state_dir", lambda: tmp_path)
    first, second = load(ROOT / "clinics/vagrant.yaml"), load(ROOT / "clinics/vagrant.yaml")
    assert first == second, "a second run made other keys"
    assert (first.technician, [person.name for person in first.people if person.login]) == ("salim", ["amina", "salim"])
    private = tmp_path / "keys/amina"
    derived = subprocess.run(["ssh-keygen", "-y", "-f", private], check=True, capture_output=True, text=True).stdout
    assert derived.split()[:2] == first.people[0].keys[0].split()[:2]
    password = first.alarm.mail.login.password_file
    assert (password.parent, stat.S_IMODE(password.stat().st_mode)) == (tmp_path / "post", 0o600)
    assert (stat.S_IMODE(private.stat().st_mode), stat.S_IMODE(private.parent.stat().st_mode)) == (0o600, 0o700)


def test_the_clinic_of_the_current_host_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles ask for it many times in a deploy."""
    path = written(tmp_path, GOOD)
    monkeypatch.setattr("pyinfra.host", type("Host", (), {"data": type("Data", (), {"clinic_file": str(path)})}))
    assert model.this_clinic().hostname == "practice.haddad.example"
    assert model.this_clinic() is model.this_clinic()


def test_a_mistake_ends_pyinfra_before_any_server_is_touched(tmp_path: Path) -> None:
    """The plain pyinfra way shows the same lines, exit code 1 and no traceback; the good clinic beside it is not deployed either."""
    for part in ("kit", "inventory"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "clinics").mkdir()
    (tmp_path / "clinics/alger.yaml").write_text(GOOD.replace("keep_days", "keep_daly"))
    (tmp_path / "clinics/oran.yaml").write_text(GOOD)
    pyinfra = [sys.executable, "-m", "pyinfra", "inventory/clinics.py", "exec", "--", "true"]
    run = subprocess.run(pyinfra, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = [line for line in (run.stdout + run.stderr).splitlines() if not line.startswith("--> Loading")]
    assert (run.returncode, said) == (1, ["clinics/alger.yaml:36: backup.keep_daly: unknown key; did you mean keep_days?"])


def test_every_clinic_but_the_vm_and_the_example_is_a_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new file in clinics/ is a new host, without another step."""
    (tmp_path / "clinics").mkdir()
    for name in ("alger", "oran", "example", "vagrant"):
        (tmp_path / f"clinics/{name}.yaml").write_text(GOOD)
    monkeypatch.setattr(model, "ROOT", tmp_path)
    assert model.inventory() == [(f"@cabinet/{name}", {"clinic_file": f"clinics/{name}.yaml"}) for name in ("alger", "oran")]
