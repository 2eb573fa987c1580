"""One document: which names are documents, which version is taken, and what it is called beside the present one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import pytest

from practice import document, restore
from practice.document import Copy, Source
from practice.engine import Restic, Snapshot, pattern
from practice.server import Trouble

LETTER = Path("/srv/letters/nadia.pdf")
OUTSIDE = Source("outside, 2026-11", name="2026-11")


def copy(at: float, mark: str) -> Copy:
    """The document as it was seen at a moment."""
    return Copy(at, f"{mark}{at:.0f}", OUTSIDE, 1, 10, mark)


FOUND = [copy(40, "b"), copy(30, "b"), copy(20, "a"), copy(10, "a")]


def test_only_what_lies_below_the_documents_is_one() -> None:
    """Whole and short names; nothing that leads out, and not all of them at once."""
    assert document.below("/srv/a/b") == document.below("a/b") == document.below("/srv/a//b/") == Path("/srv/a/b")
    for name in ("", "/", "/srv", "/srv/", "..", "/srv/..", "a/../../etc", "/srv/a/../b", "/etc/passwd", "/srvx", "/data/srv/a", "a\0b"):
        with pytest.raises(Trouble, match="is no document"):
            document.below(name)


def test_a_version_is_the_newest_of_those_that_are_alike() -> None:
    """The newest first; none is said together with what could not be looked at."""
    assert [one.at for one in document.changes(FOUND, LETTER, [])] == [40, 20]
    with pytest.raises(Trouble, match=r"holds /srv/letters/nadia.pdf. Not looked at: a medium: broken"):
        document.changes([], LETTER, ["a medium: broken"])


@pytest.mark.parametrize(
    ("at", "snapshot", "taken"), [(None, None, 40), (35, None, 30), (10, None, 10), (None, "a1", 10), (None, "b30", 30)]
)
def test_which_version_is_taken(at: float | None, snapshot: str | None, taken: float) -> None:
    """The newest, the newest up to a moment, or the one that is named."""
    assert document.choice(document.changes(FOUND, LETTER, []), FOUND, LETTER, at, snapshot).at == taken


@pytest.mark.parametrize(("at", "snapshot", "said"), [(9, None, "the oldest copy"), (None, "c", "0 copies"), (None, "", "4 copies")])
def test_a_version_that_is_not_there_is_refused(at: float | None, snapshot: str | None, said: str) -> None:
    """Nothing that was not asked for comes instead."""
    with pytest.raises(Trouble, match=said):
        document.choice(FOUND, FOUND, LETTER, at, snapshot)


def test_its_name_says_of_when_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens with what opened the document; a folder has no such ending; the longest name still has room for the moment."""
    monkeypatch.setattr(document.time, "localtime", document.time.gmtime)
    assert document.dated(LETTER, 0, is_folder=False) == "nadia.from-19700101_000000.pdf"
    assert document.dated(Path("/srv/2026.11"), 0, is_folder=True) == "2026.11.from-19700101_000000"
    longest = document.dated(Path("/srv") / f"{'é' * 125}.pdf", 0, is_folder=False)
    assert 254 <= len(longest.encode()) <= 255 and longest.endswith(".from-19700101_000000.pdf")


def test_each_snapshot_is_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few at once until it is known how many files there are; then as many as fit into memory."""
    asked: list[list[str]] = []
    monkeypatch.setattr(document, "ENTRIES", 1000)

    class Repository:
        def snapshots(self) -> list[Snapshot]:
            return [Snapshot(str(number), number, ("documents",)) for number in range(2000)] + [Snapshot("x", 1, ("changes",))]

        def found(self, _: Path, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
            asked.append(ids)
            return {id: [{"path": f"/{file}", "type": "file", "size": 1} for file in range(2)] for id in ids if int(id) < 1960}

    found = list(document.held(cast("Restic", Repository()), OUTSIDE, LETTER))
    assert sorted(one.at for one in found) == list(range(1960)) and {one.files for one in found} == {2}
    assert [len(ids) for ids in asked] == [30, 30, 500, 500, 500, 440]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The documents' directory, with a folder of letters."""
    (tmp_path / "srv/letters").mkdir(parents=True)
    monkeypatch.setattr(document, "PLACE", tmp_path / "srv")
    return tmp_path


def test_nothing_is_written_over(there: Path) -> None:
    """A file and a folder come to their names; where something lies, even a link that leads nowhere, it stays as it is."""
    (there / "file").write_text("then")
    (there / "folder").mkdir()
    (there / "folder/inner").touch()
    for number, tree in enumerate(("file", "folder", "file", "folder")):
        taken = there / "srv/letters/taken"
        taken.symlink_to("/nowhere") if number < 2 else taken.write_text("mine")
        with pytest.raises(Trouble, match="is there already"):
            document.put(there / tree, LETTER, "taken")
        assert (taken.is_symlink(), taken.is_file()) == (number < 2, number >= 2)
        taken.unlink()
    document.put(there / "file", LETTER, "a file")
    document.put(there / "folder", LETTER, "a folder")
    assert (there / "srv/letters/a file").read_text() == "then" and (there / "srv/letters/a folder/inner").exists()


def test_no_link_leads_out(there: Path) -> None:
    """Whoever may write in a folder cannot have root put a file elsewhere; a closed volume is said."""
    (there / "elsewhere").mkdir()
    (there / "srv/moved").symlink_to(there / "elsewhere")
    (there / "file").touch()
    for path in (Path("/srv/moved/letter"), Path("/srv/nowhere/letter"), Path("/srv/letters/gone/letter")):
        with pytest.raises(Trouble, match="is no folder"):
            document.put(there / "file", path, "taken")
    assert list((there / "elsewhere").iterdir()) == []
    (there / "srv").rename(there / "closed")
    with pytest.raises(Trouble, match="is the volume open"):
        document.put(there / "file", LETTER, "taken")


def test_what_a_link_leads_to_is_not_given_away(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document is a link to a folder: the link gets its owner, and nothing in that folder does."""
    monkeypatch.setattr(document, "SCRATCH", there)
    (there / "folder").mkdir()
    (there / "folder/inner").touch()
    (there / "link").symlink_to("folder")
    given: list[str] = []
    monkeypatch.setattr(document.owners, "changed", lambda path, *_: given.append(path))
    assert document.owned(there / "link", {"/link": {"user": "root", "group": "nobody here"}}) == {"group nobody here"}
    assert given == [str(there / "link")]
    document.owned(there / "folder", {})
    assert given[1:] == [str(there / "folder"), str(there / "folder/inner")], "control: a folder's are"


def test_no_letter_stands_for_another() -> None:
    """What restic would take for a pattern is a name."""
    assert pattern(Path("/srv/[1] *?\\é")) == r"/srv/\[1\] \*\?\\é"


def test_a_word_of_the_database_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--document` with a backup's label, and `--list` without a document, do nothing."""
    monkeypatch.setattr(restore, "is_root", lambda: True)
    parser = argparse.ArgumentParser()
    restore.register(parser.add_subparsers())
    for words, said in ((["--document", "a", "--backup", "x"], "of a document say"), (["--list"], "of which document")):
        assert restore.main(parser.parse_args(["restore", *words])) == 1
        assert said in capsys.readouterr().out
