"""The acceptance report as a page to read, print and sign: one self-contained HTML file, beside the same content as JSON.

All sentences are in templates/report/, for the day it speaks French.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kit.acceptance import Report, Status, Verdict
from kit.paths import ROOT

TEMPLATES = ROOT / "templates" / "report"


def html(report: Report) -> str:
    """The page."""
    return (
        _templates(ZoneInfo(report.timezone))
        .get_template("acceptance.html.j2")
        .render(
            report=report,
            claims={claim.id: claim for claim in report.claims},
            measures=[measure for chapter in report.chapters for measure in chapter.measures],
            checksum=report.checksum(),
        )
    )


def write(report: Report, directory: Path) -> dict[str, Path]:
    """Writes acceptance.html, acceptance.json and acceptance.sha256 (for `sha256sum -c`), each whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"acceptance.html": html(report), "acceptance.json": report.to_json()}
    # The checksums come last: a run cut off in between leaves a mismatch that `sha256sum -c` shows.
    contents["acceptance.sha256"] = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in contents.items())
    for name, text in contents.items():
        _replace(directory / name, text.encode())
    return {name.rpartition(".")[2]: directory / name for name in contents}


def _replace(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as staged:
        try:
            staged.write(content)
            staged.flush()
            os.fsync(staged.fileno())
            os.fchmod(staged.fileno(), 0o644)
            os.replace(staged.name, path)
        except BaseException:
            os.unlink(staged.name)
            raise


@cache
def _templates(zone: ZoneInfo) -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.globals.update(Verdict=Verdict, Status=Status)
    # kit.revision marks a tree with changes that no commit holds by a plus sign.
    templates.tests["edited"] = lambda revision: "+" in revision
    templates.filters.update(
        css_string=_css_string,
        local=lambda moment: moment.astimezone(zone),
        short=lambda revision: revision.partition("+")[0][:7],
    )
    return templates


def _css_string(text: str) -> Markup:
    # Inside <style> HTML escapes mean nothing and "</style>" ends it: every character that is not plain goes in as its number.
    # The space after the number is part of the escape.
    return Markup('"' + "".join(c if c.isascii() and (c.isalnum() or c == " ") else f"\\{ord(c):x} " for c in text) + '"')
