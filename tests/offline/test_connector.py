"""How the kit asks about many files at once."""

from __future__ import annotations

import os
from pathlib import Path

from pyinfra_openssh.shell import Shell

from kit.connector import together
from kit.facts import Path as PathFact


def test_many_paths_are_one_question(tmp_path: Path) -> None:
    """Whatever lies there: asked together, each path's answer is the one that its own question gets."""
    shell = Shell(["sh"], "here")
    (tmp_path / "it's a file\n").write_text("content")
    (tmp_path / "empty").touch(mode=0o600)
    (tmp_path / "directory").mkdir(mode=0o2770)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("directory")
    os.mkfifo(tmp_path / "fifo")
    paths = [str(path) for path in tmp_path.iterdir()] + [f"{tmp_path}/nothing", "/dev/null"]
    questions = [PathFact().command(path=path).get_raw_value() for path in paths]
    alone = {question: shell.run(question) for question in questions}
    known = together(shell, questions)()
    assert known == {question: answer for question, answer in alone.items() if question in known}
    left = {path for path, question in zip(paths, questions, strict=True) if question not in known}
    assert left == {f"{tmp_path}/fifo", "/dev/null"}
    shell.close()
