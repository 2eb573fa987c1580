"""What the last run asked is asked again at once, before this run asks it: one round trip, on all processors, instead of one each.

An answer is used until the first command that is not a question; a question that nobody foresaw is asked as ever. So a wrong guess
costs time, never truth. The server begins to answer as soon as it is connected, while pyinfra still reads what it is to do.
"""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from pyinfra_openssh.shell import Result, Shell

# Two for each processor of a small server: some answers wait for a service, not for a processor.
WORKERS = 4
# Redirections alone, so that an answer costs no process of its own.
ANSWERED = "( eval {question} ) </dev/null >{number}.out 2>{number}.err; echo $? >{number}.rc"

SCRIPT = """d=$(mktemp -dt foresight.XXXXXX) && cd $d || exit 1
trap 'cd /; rm -rf $d' EXIT
%s
wait; tar -cf - ."""

Answers = Callable[[], dict[str, Result]]
Together = Callable[[Shell, Sequence[str]], Answers]


class Foresight:
    """The questions of the last such run, in their order, and the answers that hold until something is changed.

    The first question brings the answers to all that go to the same account. After a change nothing is known; then each miss looks
    twice as far ahead as the last one, so that a run that changes much asks little in vain, and one that changed little is soon
    ahead of itself again.
    """

    def __init__(self, file: Path, together: Together | None = None) -> None:
        """The list lies in `file`; `together` asks many questions at once, each in a process of its own unless it knows better."""
        self.file, self.together = file, together or in_parallel
        self.asked: dict[tuple[str | None, str], None] = {}
        self.answers: dict[tuple[str | None, str], Result] = {}
        self.expected = self._read()
        self.places = {question: place for place, question in enumerate(self.expected)}
        self.reach = len(self.expected)
        self.begun: Answers | None = None

    def begin(self, shell: Shell) -> None:
        """Ask what will be asked in `shell`, that of the account logged in; the answers are waited for at the first question."""
        if len(wanted := [text for who, text in self.expected if who is None]) > 1:
            self.begun = self.together(shell, wanted)

    def answer(self, account: str | None, question: str, shell: Shell) -> Result | None:
        """What is known, or comes to be known with the next ones in `shell`, the account's own; None when it has to be asked by itself."""
        asked = (account, question)
        self.asked[asked] = None
        if account is None and self.begun:
            self.answers, self.begun = {(None, text): said for text, said in self.begun().items()}, None
        elif asked not in self.answers and asked in self.places:
            ahead = self.expected[self.places[asked] :][: self.reach]
            wanted = [text for who, text in ahead if who == account and (who, text) not in self.answers]
            if len(wanted) > 1:
                self.answers |= {(account, text): said for text, said in self.together(shell, wanted)().items()}
            self.reach *= 2
        return self.answers.get(asked)

    def forget(self) -> None:
        """Something may have changed: nothing that was known is known any more."""
        self.answers, self.begun, self.reach = {}, None, 1

    def keep(self) -> None:
        """Write down what was asked, for the next run, and after it what this one, cut off, did not come to."""
        if self.asked:
            reached = max((self.places.get(question, -1) for question in self.asked), default=-1)
            staged = self.file.with_suffix(".staged")  # half a list would be an error in every run after
            staged.touch(mode=0o600)
            staged.write_text(json.dumps([*self.asked, *self.expected[reached + 1 :]]))
            staged.replace(self.file)

    def _read(self) -> list[tuple[str | None, str]]:
        try:
            return [(account, question) for account, question in json.loads(self.file.read_text())]
        except (FileNotFoundError, ValueError):  # there is none yet, or another version wrote it
            return []


def in_parallel(shell: Shell, questions: Sequence[str]) -> Answers:
    """Have shell commands that change nothing asked at the same time, on all processors; what this returns waits for their answers.

    What came to no end is missing.
    """
    if not questions:
        return dict
    answered = [ANSWERED.format(question=shlex.quote(question), number=number) for number, question in enumerate(questions)]
    workers = ["\n".join(answered[worker::WORKERS]) for worker in range(min(WORKERS, len(answered)))]
    script = SCRIPT % "\n".join(f"( {work} ) &" for work in workers)
    result = shell.begin(script, timeout=300)
    return lambda: unpacked(result(), questions)


def unpacked(done: Result, questions: Sequence[str]) -> dict[str, Result]:
    """Whose answer is whose."""
    if done.rc:  # no room for the answers, say: then each is asked by itself
        return {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        said = {entry.name.removeprefix("./"): tar.extractfile(entry).read() for entry in tar if entry.isfile()}  # type: ignore[union-attr]
    whole = [number for number in range(len(questions)) if said.get(f"{number}.rc")]
    return {questions[number]: Result(int(said[f"{number}.rc"]), said[f"{number}.out"], said[f"{number}.err"]) for number in whole}
