"""Foresight: what the last run asked is known before this one asks, until something changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.foresight import Foresight, together
from kit.shell import RootShell


@pytest.fixture
def shell() -> Iterator[RootShell]:
    """A shell as the server's would be, without the server."""
    here = RootShell(["sh"], "here")
    yield here
    here.close()


QUESTIONS = ["echo a; exit 3", "printf 'b\\0'; echo c >&2", "cd /; exit", "false", "echo 'it''s'; cat", 'echo "$((2 + 3))"', "true"]


def test_answers_are_those_of_the_shell(shell: RootShell) -> None:
    """Asked together or one by one: exit code and both streams are the same."""
    assert together(shell, QUESTIONS) == {question: shell.run(question) for question in QUESTIONS}
    assert shell.run("ls -d ${TMPDIR:-/tmp}/foresight.*").stdout == b""


def test_a_question_that_breaks_the_shell_is_left_to_be_asked(shell: RootShell) -> None:
    """What does not come to its end is not known; the others are."""
    assert list(together(shell, ["echo 'unterminated", "kill -KILL $(exec sh -c 'echo $PPID')", "echo fine"]))[-1:] == ["echo fine"]


def test_without_room_for_the_answers_nothing_is_known() -> None:
    """The run then asks one by one, as ever; it does not end."""
    nowhere = RootShell(["env", "TMPDIR=/nonexistent", "sh"], "here")
    assert together(nowhere, QUESTIONS) == {}
    nowhere.close()


def test_it_knows_what_was_asked_last_time_until_something_changes(shell: RootShell, tmp_path: Path) -> None:
    """The next run has the answer without asking; after a change it has none."""
    state = tmp_path / "state"
    state.write_text("before")
    question = f"cat {state}"
    first = Foresight(tmp_path)
    first.ask(shell)
    assert first.answer(question) is None
    first.remember(question)
    first.keep()
    second = Foresight(tmp_path)
    second.ask(shell)
    known = second.answer(question)
    assert known is not None and known.stdout == b"before"
    second.forget()
    assert second.answer(question) is None
