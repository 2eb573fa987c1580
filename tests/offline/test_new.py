"""`./cabinet new NAME`: answers become a clinic file, wrong answers are asked again, and nothing is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kit import new as module
from kit.clinic import load
from kit.new import clinic_text, new
from tests.offline.clinic_mistakes import AMINA, KARIM

# What is typed, in order; `clinic_text` and the model see to the rest.
PRACTICE = ["Cabinet Haddad: médecine", "Dr Amina Haddad", "021 12 34 56", "Atlas Informatique", "+213 21 65 43 21", "Africa/Algiers"]
SERVER = ["practice.haddad.example", "192.168.10.5", "installer", "enp1s0", "enp2s0", "192.168.10.5/24", "", "192.168.10.1, 9.9.9.9"]
DISKS = ["0123456", "y", "0123456", "n", "WD-WX12A3456789", "n"]
TECHNICIAN = ["Karim Meziane", "karim", "technician", KARIM]
APPLICATION = ["http://127.0.0.1:8080"]
NOBODY = [""]
ANSWERS = [*PRACTICE, *SERVER, *DISKS, *TECHNICIAN, "n", *APPLICATION, *NOBODY]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without clinics."""
    (tmp_path / "clinics").mkdir()
    monkeypatch.setattr(module.paths, "ROOT", tmp_path)
    return tmp_path


def run(answers: list[str], name: str = "alger") -> Result:
    """`./cabinet new NAME` with these answers."""
    return CliRunner().invoke(new, [name], input="".join(f"{answer}\n" for answer in answers))


def test_good_answers_become_a_clinic(tree: Path) -> None:
    """What was typed is what the model reads, though colons, accents and digits want quotes in YAML."""
    result = run(ANSWERS)
    assert result.exit_code == 0, result.output
    clinic = load(tree / "clinics/alger.yaml")
    assert (clinic.practice, clinic.contact.practice_phone) == ("Cabinet Haddad: médecine", "021 12 34 56")
    assert (clinic.storage.disk, clinic.storage.wipe) == ("0123456", "0123456")
    assert (clinic.backup.disk, clinic.backup.wipe) == ("WD-WX12A3456789", None)
    assert [str(network) for network in clinic.network.management] == ["192.168.10.0/24"]
    assert [str(address) for address in clinic.network.resolvers] == ["192.168.10.1", "9.9.9.9"]
    assert [(person.name, person.keys) for person in clinic.people] == [("karim", (KARIM,))]
    assert (clinic.proxy.names, clinic.proxy.upstream) == (("practice.haddad.example",), "http://127.0.0.1:8080")
    assert clinic.alarm is None


@pytest.mark.parametrize("account", [True, False])
def test_whoever_is_told_stands_in_the_file(tree: Path, tmp_path: Path, account: bool) -> None:
    """Where to, whence, by which server, and as whom; the password stays in the file that holds it."""
    (tmp_path / "password").write_text("a word that nobody guesses\n")
    login = ["server@haddad.example", "password", f"{tmp_path}/missing", f"{tmp_path}/password"] if account else [""]
    to = "garde@haddad.example, alerts@atlas"
    mail = [to, f"{to}.example", "server@haddad.example", "mail.haddad.example"]
    result = run([*ANSWERS[:-1], *mail, *login])
    assert result.exit_code == 0, result.output
    assert '  "alerts@atlas" is not a mail address' in result.output
    assert ("is not the whole path" in result.output, "is not a file on this machine" in result.output) == (account, account)
    sent = load(tree / "clinics/alger.yaml").alarm.mail
    assert (sent.to, sent.sender) == (("garde@haddad.example", "alerts@atlas.example"), "server@haddad.example")
    assert (sent.host, sent.port, sent.encryption) == ("mail.haddad.example", 587, "starttls")
    assert (sent.login and (sent.login.user, sent.login.password_file)) == (
        ("server@haddad.example", tmp_path / "password") if account else None
    )


def test_a_wrong_answer_is_asked_again_at_once(tree: Path) -> None:
    """The model's own sentence is shown under the answer, what contradicts an earlier answer included."""
    answers = [*PRACTICE[:-1], "Africa/Alger", *PRACTICE[-1:], *SERVER[:5], "192.168.10.0/24", *SERVER[5:]]
    answers += [*DISKS[:3], "y", "0123456", "0123457", "n", "0123456", *DISKS[4:]]
    answers += ["Karim Meziane", "Karim", "karim", "technicien", "technician", "karim.pub", KARIM, "n", "", *NOBODY]
    result = run(answers)
    assert result.exit_code == 0, result.output
    assert [line.strip() for line in result.output.splitlines() if line.startswith("  ")] == [
        '"Africa/Alger" is not a time zone; did you mean Africa/Algiers?',
        "192.168.10.0 belongs to the network 192.168.10.0/24 as a whole; the first address in it is 192.168.10.1",
        "0123456 is the data disk itself (storage.disk); a mirror is a second disk",
        "0123456 is the data disk already (storage.disk); backups need a disk of their own",
        '"Karim" is not a log-in name: at most 31 small letters, digits, - and _, a letter first',
        '"technicien" is not known; did you mean technician?',
        "not a public key; write the one line of a .pub file, such as: ssh-ed25519 AAAA… name",
    ]
    clinic = load(tree / "clinics/alger.yaml")
    assert (clinic.proxy.upstream, clinic.storage.disks) == (None, ("0123456", "0123457"))


def test_people_are_asked_for_until_somebody_administers(tree: Path, tmp_path: Path) -> None:
    """Nobody ends up with a server that no one may look after, and no key serves two people; a key may come from its file."""
    public = tmp_path / "amina.pub"
    public.write_text(f"{AMINA}\n")
    doctor = ["Dr Amina Haddad", "amina", "doctor", "y", str(public)]
    namesake, secretary = ["Karim Saadi", "karim", "secretary", "n"], ["Lila Saadi", "lila", "secretary", "n"]
    people = [*doctor, "Karim Meziane", "karim", "technician", AMINA, KARIM, "y", *namesake, *secretary, "n"]
    result = run([*PRACTICE, *SERVER, *DISKS, *people, *APPLICATION, *NOBODY])
    assert result.exit_code == 0, result.output
    assert "nobody may administer the server" in result.output
    assert "this key is amina's already" in result.output
    assert "two people are called karim" in result.output
    clinic = load(tree / "clinics/alger.yaml")
    assert [(person.name, person.login, person.keys) for person in clinic.people] == [
        ("amina", True, (AMINA,)),
        ("karim", True, (KARIM,)),
        ("lila", False, ()),
    ]


def test_nothing_is_overwritten(tree: Path) -> None:
    """A clinic that is there stays as it is, and is refused before the first question."""
    (tree / "clinics/alger.yaml").write_text("mine\n")
    result = run(ANSWERS)
    assert (result.exit_code, result.output) == (1, f"Error: {tree}/clinics/alger.yaml is there already; edit it, or take another name\n")
    assert (tree / "clinics/alger.yaml").read_text() == "mine\n"


@pytest.mark.parametrize("name", ["example", "vagrant", "../alger", "Alger", "a b", ""])
def test_names_that_no_clinic_can_have(name: str, tree: Path) -> None:
    """A name is a file and a host: nothing that leaves the directory, and neither of the two that are taken."""
    result = run(ANSWERS, name)
    assert (result.exit_code, result.output.splitlines()[0][:30]) == (1, f'Error: "{name}" cannot name a clinic'[:30])
    assert list(tree.rglob("*.yaml")) == []


def test_giving_up_writes_nothing(tree: Path) -> None:
    """The end of the input in the middle of the questions leaves no half of a file."""
    result = run(ANSWERS[:9])
    assert (result.exit_code, "Aborted!" in result.output) == (1, True)
    assert list((tree / "clinics").iterdir()) == []


def test_a_draft_says_which_line_to_take_out_again() -> None:
    """A disk that may be wiped is dangerous to leave in the file."""
    network = {"internet": {"interface": "a"}, "lan": {"interface": "b", "address": "10.0.0.1/24"}, "management": [], "resolvers": []}
    contact = dict.fromkeys(("responsible", "practice_phone", "vendor", "vendor_phone"), "x")
    draft = {"practice": "no", "contact": contact, "timezone": "UTC", "hostname": "a.b", "network": network, "people": []}
    draft |= {"connect": {"host": "h", "bootstrap_user": "u"}, "proxy": {"names": ["a.b"]}}
    mirror = {"disk": "three", "wipe": "three"}
    text = clinic_text(draft | {"storage": {"disk": "one", "wipe": "one", "mirror": mirror}, "backup": {"disk": "two"}})
    assert 'practice: "no"\n' in text
    line = "# Take this line out after the first deploy."
    assert f"  {line}\n  wipe: one\n  mirror:\n    disk: three\n    {line}\n    wipe: three\nbackup:\n  disk: two\n" in text
