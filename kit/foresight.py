"""What the last run asked is asked again at once, before this run asks it: one round trip, on all processors, instead of one each.

Questions are what kit/facts.py marks as such. An answer is used until the first command that is none; a question that nobody foresaw
is asked as ever. So a wrong guess costs time, never truth.
"""

from __future__ import annotations

import io
import json
import shlex
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from kit import facts
from kit.shell import Result, RootShell

# Two for each processor of a small server: some answers wait for systemd, not for a processor.
WORKERS = 4
# Redirections alone, so that an answer costs no process of its own.
ANSWERED = "( eval {question} ) </dev/null >{number}.out 2>{number}.err; echo $? >{number}.rc"

SCRIPT = """d=$(mktemp -dt foresight.XXXXXX) && cd $d || exit 1
trap 'cd /; rm -rf $d' EXIT
%s
wait; tar -cf - ."""


class Foresight:
    """The questions of the last such run, in their order, and the answers that hold until something is changed.

    The first question brings the answers to all. After a change nothing is known; then each miss looks twice as far ahead as the
    last one, so that a run that changes much asks little in vain, and one that changed little is soon ahead of itself again.
    """

    def __init__(self, directory: Path) -> None:
        """The list lies in `directory`, one for each thing that pyinfra can be told to do: a role alone asks less than the whole."""
        told = "_".join(word.replace("/", ".") for word in sys.argv[1:] if not word.startswith("-"))
        self.file = directory / f"{told[:150]}.asked.json"
        self.asked: dict[str, None] = {}
        self.answers: dict[str, Result] = {}
        self.expected: list[str] = json.loads(self.file.read_text()) if self.file.exists() else []
        self.places = {question: place for place, question in enumerate(self.expected)}
        self.reach = len(self.expected)

    def answer(self, question: str, shell: RootShell) -> Result | None:
        """What is known, or comes to be known with the next ones in `shell`; None when it has to be asked by itself."""
        self.asked[question] = None
        if question not in self.answers and question in self.places:
            ahead = self.expected[self.places[question] :][: self.reach]
            if len(ahead) > 1:
                self.answers |= together(shell, [each for each in ahead if each not in self.answers])
            self.reach *= 2
        return self.answers.get(question)

    def forget(self) -> None:
        """Something may have changed: nothing that was known is known any more."""
        self.answers, self.reach = {}, 1

    def keep(self) -> None:
        """Write down what was asked, for the next run, and after it what this one, cut off, did not come to."""
        if self.asked:
            reached = max((self.places.get(question, -1) for question in self.asked), default=-1)
            staged = self.file.with_suffix(".staged")  # half a list would be an error in every run after
            staged.touch(mode=0o600)
            staged.write_text(json.dumps([*self.asked, *self.expected[reached + 1 :]]))
            staged.replace(self.file)


def together(shell: RootShell, questions: Sequence[str]) -> dict[str, Result]:
    """The answers to shell commands that change nothing, asked at the same time; those that did not come to an end are missing.

    What lies at many paths is one question.
    """
    paths = {question: path for question in questions if (path := facts.Path.asked(question))}
    others = [question for question in questions if question not in paths]
    all_paths = facts.Path.together(list(paths.values()))
    answers = in_parallel(shell, [*others, *([all_paths] if paths else [])])
    if said := answers.pop(all_paths, None):
        found = facts.Path.apart(said.stdout.decode(errors="replace"))
        answers |= {question: Result(0, found[path].encode(), b"") for question, path in paths.items() if path in found}
    return answers


def in_parallel(shell: RootShell, questions: Sequence[str]) -> dict[str, Result]:
    """The answers to `questions`, each asked by itself, on all processors."""
    if not questions:
        return {}
    answered = [ANSWERED.format(question=shlex.quote(question), number=number) for number, question in enumerate(questions)]
    workers = ["\n".join(answered[worker::WORKERS]) for worker in range(min(WORKERS, len(answered)))]
    script = SCRIPT % "\n".join(f"( {work} ) &" for work in workers)
    done = shell.run(script, timeout=300)
    if done.rc:  # no room for the answers, say: then each is asked by itself
        return {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        said = {entry.name.removeprefix("./"): tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    whole = [number for number in range(len(questions)) if said.get(f"{number}.rc")]
    return {questions[number]: Result(int(said[f"{number}.rc"]), said[f"{number}.out"], said[f"{number}.err"]) for number in whole}
