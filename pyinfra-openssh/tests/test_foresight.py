"""Foresight: what the last run asked is known before this one asks, until something changes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyinfra_openssh.foresight import Foresight, in_parallel
from pyinfra_openssh.shell import Shell


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A shell as the server's would be, without the server."""
    here = Shell(["sh"], "here")
    yield here
    here.close()


QUESTIONS = ["echo a; exit 3", "printf 'b\\0'; echo c >&2", "cd /; exit", "false", "echo 'it''s'; cat", 'echo "$((2 + 3))"', "true"]


def test_answers_are_those_of_the_shell(shell: Shell) -> None:
    """Asked together or one by one: exit code and both streams are the same."""
    assert in_parallel(shell, QUESTIONS)() == {question: shell.run(question) for question in QUESTIONS}
    assert shell.run("ls -d ${TMPDIR:-/tmp}/foresight.*").stdout == b""


def test_a_question_that_breaks_the_shell_is_left_to_be_asked(shell: Shell) -> None:
    """What does not come to its end is not known; the others are."""
    assert list(in_parallel(shell, ["echo 'unterminated", "kill -KILL $(exec sh -c 'echo $PPID')", "echo fine"])())[-1:] == ["echo fine"]


def test_without_room_for_the_answers_nothing_is_known() -> None:
    """The run then asks one by one, as ever; it does not end."""
    nowhere = Shell(["env", "TMPDIR=/nonexistent", "sh"], "here")
    assert in_parallel(nowhere, QUESTIONS)() == {}
    nowhere.close()


def asked_before(file: Path, shell: Shell, *questions: str) -> Foresight:
    """A run after one that asked `questions`."""
    first = Foresight(file)
    for question in questions:
        assert first.answer(None, question, shell) is None
    first.keep()
    return Foresight(file)


def test_it_knows_what_was_asked_last_time_until_something_changes(shell: Shell, tmp_path: Path) -> None:
    """The next run has the answer without asking; after a change it has none."""
    state = tmp_path / "state"
    state.write_text("before")
    question = f"cat {state}"
    run = asked_before(tmp_path / "asked.json", shell, question, "true")
    known = run.answer(None, question, shell)
    assert known is not None and known.stdout == b"before"
    state.write_text("after")
    run.forget()
    assert run.answer(None, question, shell) is None


def test_the_server_answers_while_nobody_has_asked_yet(shell: Shell, tmp_path: Path) -> None:
    """From the connection on; the first question waits for what is not yet there."""
    asked = tmp_path / "asked"
    questions = [f"touch {asked}; echo one", "sleep 0.2; echo two", "echo three"]
    run = asked_before(tmp_path / "asked.json", shell, *questions)
    run.begin(shell)
    deadline = time.monotonic() + 5
    while not asked.exists():
        assert time.monotonic() < deadline, "nothing was asked"
        time.sleep(0.01)
    asked.unlink()
    assert [run.answer(None, question, shell).stdout for question in questions] == [b"one\n", b"two\n", b"three\n"]  # type: ignore[union-attr]
    assert not asked.exists(), "it was asked a second time"


def test_what_was_begun_before_a_change_is_no_answer_after_it(shell: Shell, tmp_path: Path) -> None:
    """The change waits in the same shell; then the question has to be asked anew."""
    state = tmp_path / "state"
    state.write_text("before")
    run = asked_before(tmp_path / "asked.json", shell, f"cat {state}", "sleep 0.2")
    run.begin(shell)
    run.forget()
    assert shell.run(f"printf after >{state}; echo changed").stdout == b"changed\n"
    assert run.answer(None, f"cat {state}", shell) is None


def test_after_a_change_it_looks_ahead_further_with_each_miss(shell: Shell, tmp_path: Path) -> None:
    """One, two, four: a run that goes on changing things asks little in vain. None of the answers is older than the change."""
    counter = tmp_path / "counter"
    questions = [f"echo {number} >> {counter}; cat {counter}" for number in range(8)]
    run = asked_before(tmp_path / "asked.json", shell, *questions)
    run.forget()
    assert run.answer(None, questions[0], shell) is None and not counter.exists()
    assert run.answer(None, questions[1], shell) is not None
    assert sorted(counter.read_text().split()) == ["1", "2"]
    assert run.answer(None, questions[2], shell) is not None and run.answer(None, questions[3], shell) is not None
    assert sorted(counter.read_text().split()) == ["1", "2", "3", "4", "5", "6"]
    run.forget()
    assert run.answer(None, questions[4], shell) is None


def test_what_one_account_sees_is_no_answer_for_another(shell: Shell, tmp_path: Path) -> None:
    """The same words asked as root and as somebody are two questions, and each is asked in its own shell."""
    other = Shell(["env", "WHO=other", "sh"], "there")
    first = Foresight(tmp_path / "asked.json")
    for account, asked in ((None, shell), ("other", other), (None, shell), ("other", other)):
        first.answer(account, "echo $WHO", asked)
        first.answer(account, "echo more", asked)
    first.keep()
    run = Foresight(tmp_path / "asked.json")
    assert run.answer("other", "echo $WHO", other).stdout == b"other\n"  # type: ignore[union-attr]
    run.forget()
    assert run.answer(None, "echo $WHO", shell) is None, "after a change the reach is one: nothing was asked ahead"
    other.close()


@pytest.mark.parametrize("text", ["", "[", '["a question of an earlier version"]', "{}"])
def test_a_list_that_cannot_be_read_is_none(shell: Shell, tmp_path: Path, text: str) -> None:
    """The run asks one by one, and writes a new one."""
    (tmp_path / "asked.json").write_text(text)
    run = Foresight(tmp_path / "asked.json")
    assert run.answer(None, "true", shell) is None
    run.keep()
    assert Foresight(tmp_path / "asked.json").expected == [(None, "true")]
