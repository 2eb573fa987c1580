"""Foresight: what the last run asked is known before this one asks, until something changes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.facts import Path as PathFact
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


def test_many_paths_are_one_question(shell: RootShell, tmp_path: Path) -> None:
    """Whatever lies there: asked together, each path's answer is the one that its own question gets."""
    (tmp_path / "it's a file\n").write_text("content")
    (tmp_path / "empty").touch(mode=0o600)
    (tmp_path / "directory").mkdir(mode=0o2770)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("directory")
    os.mkfifo(tmp_path / "fifo")
    paths = [str(path) for path in tmp_path.iterdir()] + [f"{tmp_path}/nothing", "/dev/null"]
    questions = [PathFact().command(path=path).get_raw_value() for path in paths]
    alone = {question: shell.run(question) for question in questions}
    known = together(shell, questions)
    assert known == {question: answer for question, answer in alone.items() if question in known}
    left = {path for path, question in zip(paths, questions, strict=True) if question not in known}
    assert left == {f"{tmp_path}/fifo", "/dev/null"}


def asked_before(directory: Path, shell: RootShell, *questions: str) -> Foresight:
    """A run after one that asked `questions`."""
    first = Foresight(directory)
    for question in questions:
        assert first.answer(question, shell) is None
    first.keep()
    return Foresight(directory)


def test_it_knows_what_was_asked_last_time_until_something_changes(shell: RootShell, tmp_path: Path) -> None:
    """The next run has the answer without asking; after a change it has none."""
    state = tmp_path / "state"
    state.write_text("before")
    question = f"cat {state}"
    run = asked_before(tmp_path, shell, question, "true")
    known = run.answer(question, shell)
    assert known is not None and known.stdout == b"before"
    state.write_text("after")
    run.forget()
    assert run.answer(question, shell) is None


def test_after_a_change_it_looks_ahead_further_with_each_miss(shell: RootShell, tmp_path: Path) -> None:
    """One, two, four: a run that goes on changing things asks little in vain. None of the answers is older than the change."""
    counter = tmp_path / "counter"
    questions = [f"echo {number} >> {counter}; cat {counter}" for number in range(8)]
    run = asked_before(tmp_path, shell, *questions)
    run.forget()
    assert run.answer(questions[0], shell) is None and not counter.exists()
    assert run.answer(questions[1], shell) is not None
    assert sorted(counter.read_text().split()) == ["1", "2"]
    assert run.answer(questions[2], shell) is not None and run.answer(questions[3], shell) is not None
    assert sorted(counter.read_text().split()) == ["1", "2", "3", "4", "5", "6"]
    run.forget()
    assert run.answer(questions[4], shell) is None
