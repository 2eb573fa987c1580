"""The recovery kit without a server: no slip of the pen goes unseen, the page holds all of it, and who holds none hears so."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from practice import kit_anew, kit_back, kit_page, letters, paper, recovery_kit
from practice.__main__ import main as practice
from practice.server import Trouble
from practice.unlock import MODHEX

NOW = 1_800_000_000.0
HOUR = 3600
SECRETS = {"A": bytes(range(32)), "B": bytes(range(48)), "C": bytes(range(100, 148)), "D": b"hunter2 and more of it, 37 characters"}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The keys of a practice, as the roles leave them."""
    for part, secret in SECRETS.items():
        (tmp_path / part).write_text(recovery_kit.unpacked(part, secret) + ("\n" if part == "D" else ""))
        os.utime(tmp_path / part, (NOW, NOW))
    (tmp_path / "recovery.json").write_text(json.dumps({"parts": {part: str(tmp_path / part) for part in SECRETS}, "grace_hours": 48}))
    monkeypatch.setattr(recovery_kit, "CONFIG", tmp_path / "recovery.json")
    monkeypatch.setattr(recovery_kit, "KEPT", tmp_path / "kept.json")
    for name in ("ANEW", "ANEW_LOCK", "BEFORE"):
        monkeypatch.setattr(recovery_kit, name, tmp_path / name)
    monkeypatch.setattr(recovery_kit, "record", lambda what: None)
    monkeypatch.setattr(kit_back, "record", lambda what: None)
    return tmp_path


def made(at: float = NOW) -> str:
    """A kit is made; its text."""
    found = recovery_kit.keys()
    state = recovery_kit.numbered(found, recovery_kit.kept(), at)
    recovery_kit.keep(state)
    return letters.written(state["number"], found)


def confirmed(text: str, monkeypatch: pytest.MonkeyPatch, terminal: bool = False) -> None:
    """`practice recovery-kit --confirm`, with this typed."""
    typed = io.StringIO(text)
    monkeypatch.setattr(typed, "isatty", lambda: terminal)
    monkeypatch.setattr(recovery_kit.sys, "stdin", typed)
    recovery_kit.confirm(recovery_kit.keys())


def test_what_is_written_can_be_read(server: Path) -> None:
    """Byte by byte, in capitals or not; each secret comes back as the roles made it."""
    text = letters.written(7, SECRETS)
    first, rest = text.lower().split("\n", 1)
    assert letters.read(text) == letters.read(f"\n {first}\r\n\n{rest.replace(' ', '  ')}") == (7, SECRETS)
    assert {recovery_kit.unpacked(part, key) for part, key in SECRETS.items()} == {(server / part).read_text().strip() for part in SECRETS}
    assert base64.b64decode((server / "B").read_text()) == SECRETS["B"]
    assert re.fullmatch(f"([{MODHEX}]{{8}}-){{7}}[{MODHEX}]{{8}}", (server / "A").read_text())


def test_every_slip_is_seen_and_its_line_named() -> None:
    """Each letter of a line by the next one, each two neighbours swapped, one too few: 16 bits let one in 65,536 through."""
    (line, *_) = [" ".join(line) for line in letters.lines(7, "B", SECRETS["B"])]
    slips = set()
    for at in range(3, len(line)):
        if line[at] != " ":
            after = MODHEX[(MODHEX.index(line[at]) + 1) % 16]
            slips |= {line[:at] + after + line[at + 1 :], line[:at] + line[at + 1 :], line[:at] + line[at : at + 2][::-1] + line[at + 2 :]}
    slips -= {slip for slip in slips if slip.replace(" ", "") == line.replace(" ", "")}
    assert len(slips) > 80, "control: slips were made"
    for slip in slips:
        with pytest.raises(Trouble, match="line B1 is not as on page 7"):
            letters.read_line(7, slip)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("KIT 7", "KIT 8"), "line A1 is not as on page 8"),
        (("\nB", "\nC"), "line C1 is not as on page 7"),
        (("\nB2", "\nX"), '"x" is not the name of a line'),
        (("\nA1 C", "\nA1 A"), 'line A1: "a" is none of the letters'),
        (("CABINET", "CABINNET"), "the first line must be"),
    ],
)
def test_what_is_wrong_is_named(change: tuple[str, str], said: str) -> None:
    """Another kit's number, another place, another letter."""
    text = letters.written(7, SECRETS)
    assert change[0] in text, "control: it is changed"
    with pytest.raises(Trouble, match=re.escape(said)):
        letters.read(text.replace(*change))


def test_a_line_that_is_missing_is_named() -> None:
    """Whichever it is; the last one of a part is missed because the one before it does not end the part."""
    rows = letters.written(7, SECRETS).splitlines()
    for gone in range(1, len(rows)):
        whole_part = rows[gone][1] == "1" and (gone + 1 == len(rows) or rows[gone + 1][1] == "1")
        assert not whole_part, "control: each part has several lines"
        with pytest.raises(Trouble, match="missing"):
            letters.read("\n".join(rows[:gone] + rows[gone + 1 :]))
    with pytest.raises(Trouble, match="stands here twice"):
        letters.read("\n".join([*rows[:2], *rows[1:]]))


def test_nobody_holds_a_kit_until_it_is_confirmed(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After two days that is an alarm, made or not; the confirmed one takes it away. The number stays while the keys do."""
    assert recovery_kit.look(NOW + 47 * HOUR)[1] == {}
    assert "NOBODY holds" in recovery_kit.look(NOW + 49 * HOUR)[1]["recovery-kit"]
    text = made()
    assert made(NOW + 99) == text
    assert "NOBODY has confirmed kit 1" in recovery_kit.look(NOW + 49 * HOUR)[1]["recovery-kit"]
    confirmed(text, monkeypatch)
    seen, wrong = recovery_kit.look(NOW + 9999 * HOUR)
    assert (seen["number"], wrong) == (1, {})
    assert oct((server / "kept.json").stat().st_mode) == "0o100600"


def test_another_key_makes_the_kit_void(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said which key, after the same two days; that page is not believed any more, and the next one has another number."""
    old = made()
    confirmed(old, monkeypatch)
    (server / "B").write_text(base64.b64encode(bytes(48)).decode())
    os.utime(server / "B", (NOW + 100 * HOUR, NOW + 100 * HOUR))
    seen, wrong = recovery_kit.look(NOW + 147 * HOUR)
    assert (wrong, seen["changed"]) == ({}, ["B"])
    assert "kit 1 does NOT open the backups any more" in recovery_kit.look(NOW + 149 * HOUR)[1]["recovery-kit"]
    with pytest.raises(Trouble, match="kit 1 does not open the backups any more"):
        confirmed(old, monkeypatch)
    assert made().startswith("CABINET RECOVERY KIT 2\n")
    with pytest.raises(Trouble, match="this is kit 1; the one that counts is kit 2"):
        confirmed(old, monkeypatch)
    assert recovery_kit.kept()["confirmed"] is None


def test_an_older_page_that_opens_the_volume_is_an_alarm(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, from the new key until the new page is confirmed, and longer where what takes the old key out was cut off."""
    retired: list[bool] = []
    monkeypatch.setattr(kit_anew, "retired", lambda: retired.append(recovery_kit.is_held(recovery_kit.look(NOW)[0])))
    old = made()
    confirmed(old, monkeypatch)
    recovery_kit.BEFORE.write_text((server / "A").read_text())
    assert recovery_kit.look(NOW)[1] == {}, "control: the page that counts opens it"
    (server / "A").write_text(recovery_kit.unpacked("A", bytes(32)))
    said = "kit 1 is void, but keep all pages until another is confirmed, since an older one still opens the data volume"
    assert said in recovery_kit.look(NOW)[1]["recovery-kit"]
    with pytest.raises(Trouble, match=said):
        confirmed(old, monkeypatch)
    new = made()
    assert "NOBODY has confirmed kit 2, so nobody may hold it, and an older page" in recovery_kit.look(NOW)[1]["recovery-kit"]
    assert retired == []
    confirmed(new, monkeypatch)
    assert retired == [True]
    assert "kit 2 is confirmed, and an older page still opens the data volume" in recovery_kit.look(NOW)[1]["recovery-kit"]
    recovery_kit.BEFORE.unlink()
    assert recovery_kit.look(NOW)[1] == {}


@pytest.fixture
def volume(server: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys that the volume opens by; the programs that `--anew` calls change them."""
    keys = {(server / "A").read_text()}

    def run(*words: str, stdin: str = "", timeout: float = 0) -> str:
        if words[:2] == ("cryptsetup", "open") and stdin not in keys:
            raise Trouble("no key available with this passphrase")
        if words[:2] == ("cryptsetup", "luksAddKey"):
            keys.add(Path(words[-1]).read_text())
        if words[:2] == ("cryptsetup", "luksRemoveKey"):
            keys.remove(Path(words[-1]).read_text())
        if words[0] == kit_anew.ENROL:
            keys.intersection_update(path.read_text() for path in (server / "A", kit_anew.BEFORE) if path.exists())
        return ""

    (server / "CRYPTTAB").write_text("data disk - luks")
    for name in ("BEFORE", "ENROL_LOCK", "NEW", "CRYPTTAB"):
        monkeypatch.setattr(kit_anew, name, server / name)
    for name, stands_in in {"run": run, "disk": lambda: "disk", "record": lambda what: None}.items():
        monkeypatch.setattr(kit_anew, name, stands_in)
    return keys


@pytest.mark.parametrize("cut", [False, True])
def test_the_page_that_was_confirmed_last_opens_the_volume(
    cut: bool, server: Path, volume: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are replaced once more before a page was made; and after one was confirmed, what comes with that being `cut` off."""
    first, second, third, fourth = (recovery_kit.unpacked("A", bytes([number]) * 32) for number in range(4))
    (server / "A").write_text(first)
    volume.clear(), volume.add(first)
    confirmed(made(), monkeypatch)
    kit_anew.volume(server / "A", second)
    assert volume == {first, second}
    kit_anew.volume(server / "A", third)
    assert volume == {first, third}, "nobody holds a page with the second"
    page = made()
    if cut:
        monkeypatch.setattr(recovery_kit, "BEFORE", server / "not there")
    confirmed(page, monkeypatch)
    assert volume == ({first, third} if cut else {third})
    kit_anew.volume(server / "A", fourth)
    assert volume == {third, fourth}


def test_nothing_of_the_keys_is_kept(server: Path) -> None:
    """Neither as they are, nor as letters."""
    text = made()
    kept = (server / "kept.json").read_text()
    assert [group for group in text.split() if len(group) == 8 and group.lower() in kept] == []
    assert [part for part in SECRETS if (server / part).read_text().strip() in kept] == []


def test_a_key_that_cannot_be_printed_is_an_alarm(server: Path) -> None:
    """It is gone, or is none of ours, or fills the page: never a page that does not open what it says."""
    for part, secret in (("B", "hunter2"), ("A", "b" * 63), ("D", "x" * 97), ("C", None)):
        path, before = server / part, (server / part).read_text()
        path.unlink() if secret is None else path.write_text(secret)
        assert str(path) in recovery_kit.look(NOW)[1]["recovery-kit"]
        assert recovery_kit.look((server / "recovery.json").stat().st_mtime + 60)[1] == {}, "a deploy is still making it"
        path.write_text(before)


def test_the_challenge_asks_for_what_is_on_the_page(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two groups of each part, others each time; who types anything else three times holds no kit."""
    rows = {words[0]: words[1:] for words in (line.split() for line in made().splitlines()[1:])}
    asked: list[tuple[str, int]] = []

    def answer() -> str:
        label, place = re.findall(r"Line (\w+), group (\d): $", capsys.readouterr().out)[0]
        asked.append((label, int(place)))
        return f"{rows[label.upper()][int(place) - 1]}\n"

    monkeypatch.setattr(recovery_kit.sys, "stdin", SimpleNamespace(readline=answer, isatty=lambda: True))
    for _ in range(3):
        recovery_kit.confirm(recovery_kit.keys())
    assert [label[0] for label, _ in asked] == ["A", "A", "B", "B", "C", "C", "D", "D"] * 3
    assert len({tuple(asked[start : start + 8]) for start in (0, 8, 16)}) == 3
    recovery_kit.keep(recovery_kit.kept() | {"confirmed": None})
    with pytest.raises(Trouble, match="line A. was not read as it stands on the page of kit 1"):
        confirmed("cccccccc\n" * 9, monkeypatch, terminal=True)
    assert recovery_kit.kept()["confirmed"] is None


def put_back(text: str, monkeypatch: pytest.MonkeyPatch, terminal: bool = False) -> None:
    """`practice recovery-kit --put-back`, with this typed."""
    typed = io.StringIO(text)
    monkeypatch.setattr(typed, "isatty", lambda: terminal)
    monkeypatch.setattr(recovery_kit.sys, "stdin", typed)
    kit_back.put_back()


def test_a_new_server_gets_the_old_keys_back(server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """As the roles would have made them, for root alone. Its volume's key stays its own, so the next kit has the next number."""
    text, keys = made(), {part: (server / part).read_text() for part in SECRETS}
    (server / "kept.json").unlink()
    rows = [line.partition(" ")[2] for line in text.splitlines() if line[0] in "BC" and line[1].isdigit()]
    slip = rows[0][:-1] + ("B" if rows[0][-1] != "B" else "C")
    for typed, terminal in ((text, False), ("\n".join(["one", "1", slip, *rows]) + "\n", True)):
        for part in "BC":
            (server / part).unlink()
        (server / "A").write_text(recovery_kit.unpacked("A", bytes(32)))
        put_back(typed, monkeypatch, terminal)
        assert {part: (server / part).read_text() for part in "BCD"} == {part: keys[part] for part in "BCD"}
        assert {(server / part).stat().st_mode & 0o777 for part in "BC"} == {0o600}
        assert (server / "A").read_text() == recovery_kit.unpacked("A", bytes(32))
    assert "line B1 is not as on page 1" in capsys.readouterr().out
    assert made().startswith("CABINET RECOVERY KIT 2\n")


def test_one_key_comes_off_the_page_on_any_computer(
    server: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Typed, or from a pipe: nothing but the key is on standard output, and nobody has to be root; what asks goes beside it."""
    text = made()
    (server / "recovery.json").unlink()
    rows = [line.partition(" ")[2] for line in text.splitlines() if line[0] == "C" and line[1].isdigit()]
    slip = rows[0][:-1] + ("B" if rows[0][-1] != "B" else "C")
    monkeypatch.setattr(recovery_kit, "is_root", lambda: False)

    def asked(part: str, typed: str, terminal: bool = False) -> tuple[int, str, str]:
        given = io.StringIO(typed)
        monkeypatch.setattr(given, "isatty", lambda: terminal)
        monkeypatch.setattr(recovery_kit.sys, "stdin", given)
        code = practice(["recovery-kit", "--key", part])
        return code, *capsys.readouterr()

    keys = {part: recovery_kit.unpacked(part, key) for part, key in SECRETS.items()}
    assert {part: asked(part, text) for part in SECRETS} == {part: (0, key, "") for part, key in keys.items()}
    code, out, asks = asked("C", "\n".join(["1", slip, *rows]) + "\n", terminal=True)
    assert (code, out) == (0, keys["C"]) and "line C1 is not as on page 1" in asks
    code, out, asks = asked("C", "\n".join(line for line in text.splitlines() if line[0] != "C" or line[1] == "A"))
    assert (code, out) == (1, "") and "part C, which opens the copy outside, is missing" in asks


def test_no_key_is_overwritten(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has made one may have used it. A kit that is not whole, or that is broken off, changes nothing either."""
    text = made()
    (server / "B").unlink()
    (server / "C").write_text("a key of its own")
    with pytest.raises(Trouble, match="holds another key already"):
        put_back(text, monkeypatch)
    (server / "C").unlink()
    with pytest.raises(Trouble, match="part C, which opens the copy outside, is missing"):
        put_back("\n".join(line for line in text.splitlines() if line[0] != "C" or line[1] == "A"), monkeypatch)
    with pytest.raises(Trouble, match="broken off"):
        put_back("\n".join(["1", *(line[3:] for line in text.splitlines() if line.startswith("B"))]) + "\n", monkeypatch, terminal=True)
    assert not (server / "B").exists() and not (server / "C").exists()


def test_it_fits_on_one_page(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the longest account there is; nothing lies beyond the margins, and every line of letters is there."""
    monkeypatch.setattr(paper, "matrix", lambda text: [[True, False], [False, True]])
    (server / "D").write_text("x" * recovery_kit.LONGEST)
    found = recovery_kit.keys()
    file = kit_page.page(recovery_kit.numbered(found, {}, NOW), found)
    assert file.startswith(b"%PDF-1.4") and file.count(b"/Type /Page ") == 1
    table = int(file.rpartition(b"startxref\n")[2].split()[0])
    assert file[table:].startswith(b"xref")
    places = [int(line.split()[0]) for line in file[table:].splitlines()[3:8]]
    assert [file[place:].split(b"\n")[0] for place in places] == [b"%d 0 obj" % number for number in range(1, 6)]
    text = file.decode("cp1252")
    heights = [float(y) for y in re.findall(r"BT .* g \S+ (\S+) Td", text)]
    areas = [float(y) for y in re.findall(r" g \S+ (\S+) \S+ \S+ re f", text)]
    squares = [float(y) for y in re.findall(r"[g e] [\d.]+ ([\d.]+) [\d.]+ [\d.]+ re(?! f)", text)]
    assert min(heights) > 18 and min(areas) > 50, "something lies below the page's end"
    assert min(squares) > 60, "the code lies over the small print"
    for row in letters.written(1, found).splitlines()[1:]:
        assert [group for group in row.split() if f"({group}) Tj" not in text] == []
