"""One document: which names are documents, which version is taken, and what it is called beside the present one."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from practice import document, restore
from practice.document import Copy, Source
from practice.engine import pattern
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
