"""From templates/ and files/ to bytes: named arguments only, and a name that is missing is an error (R7)."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kit.paths import ROOT


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )


def rendered(template: str, **data: Any) -> str:
    """The text of templates/`template`. Raises jinja2.UndefinedError when it asks for what it was not given."""
    return _environment().get_template(template).render(**data)


def source(path: str) -> str:
    """The text of files/`path`, for scripts that are asked or run rather than written down."""
    return (ROOT / "files" / path).read_text()


def content_of(content: str | bytes | None, src: str | None, template: str | None, data: dict[str, Any]) -> bytes:
    """The bytes of exactly one of the three sources. Raises TypeError for none or several."""
    if [content, src, template].count(None) != 2:
        raise TypeError("exactly one of content, src, template")
    if src is not None:
        return (ROOT / "files" / src).read_bytes()
    text = rendered(template, **data) if template is not None else content
    return text.encode() if isinstance(text, str) else text  # type: ignore[return-value]
