"""YAML that knows on which line everything stands, so that a mistake can be shown where it was made.

`load` turns a file into a pydantic type. Whatever is wrong with the file ends as one `FileError`, whose text has one
line per mistake: `file:line: key: what is wrong; what would be right`.
"""

from __future__ import annotations

import difflib
import functools
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")
DID_YOU_MEAN_KEY = "unknown key; did you mean "
Loc = tuple[str | int, ...]

RESOLVER = yaml.resolver.Resolver()
TOO_DEEP = "lists within lists, too deep to be meant"
LONGEST = 400
MANY_DIGITS = 19
DECIMAL = re.compile(rf"0|-?[1-9][0-9]{{0,{MANY_DIGITS - 2}}}")
FRACTION = re.compile(r"-?[0-9]{1,9}\.[0-9]{1,9}")
SYNTAX_HINTS = {
    "mapping values are not allowed": "a value with a colon in it stands in quotes, and keys of one level begin in one column",
    "could not find expected ':'": "a key, a colon, a space and a value are expected",
    "found character '\\t'": "a tab cannot indent; use spaces",
    "expected <block end>": "keys of one level begin in one column",
    "did not find expected key": "keys of one level begin in one column, and brackets and quotes are closed",
    "but found another document": "one file describes one thing; remove the line ---",
}


class Strict(BaseModel):
    """A part of a file: nothing is guessed, nothing unknown is let through, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class FileError(Exception):
    """What is wrong with a file, one line per mistake."""


class Mistakes(ValueError):
    """Several mistakes found by one validator, each with its place below the value that was validated."""

    def __init__(self, found: Sequence[tuple[Loc, str]]) -> None:
        super().__init__("; ".join(sentence for _, sentence in found))
        self.found = found


@dataclass
class Document:
    """What stands in a file, and where."""

    text: str
    data: Any = None
    root: yaml.Node | None = None
    traps: dict[Loc, tuple[int, str]] = field(default_factory=dict)
    duplicates: list[tuple[int, Loc, str]] = field(default_factory=list)

    def find(self, loc: Loc) -> tuple[int, yaml.Node | None]:
        """The line of `loc`, or of the deepest part of it that exists, and the node there (None when it does not exist)."""
        line, node = 1, self.root
        for step in loc:
            if isinstance(node, yaml.MappingNode):
                pairs = [(key, value) for key, value in node.value if key.value == str(step)]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                pairs = [(node.value[step], node.value[step])]
            else:
                pairs = []
            if not pairs:
                return line, None
            line, node = pairs[-1][0].start_mark.line + 1, pairs[-1][1]
        return line, node


def load(kind: type[T] | TypeAdapter[T], path: Path, *, expected: str, context: Any = None, empty: Any = None) -> T:
    """The file at `path` as a `kind`. `expected` says what such a file looks like; `empty` stands for a file without content."""
    try:
        document = _read(path, expected, empty)
    except RecursionError:
        raise FileError(_line(path, 1, (), TOO_DEEP)) from None
    result, said = _checked(kind, document, context)
    # What YAML misread has been said already.
    found = [(line, loc, text) for loc, (line, text) in document.traps.items()] + document.duplicates
    already = {loc for _, loc, _ in found}
    found += [(document.find(loc)[0], loc, text) for loc, text in said if loc not in already]
    if found:
        lines = [_line(path, line, loc, text) for line, loc, text in sorted(found, key=lambda item: item[0])]
        raise FileError("\n".join(dict.fromkeys(lines)))
    assert result is not None
    return result


def mistakes(kind: type[Any], data: dict[str, Any], context: Any = None) -> list[tuple[Loc, str]]:
    """What `load` would say about a file with this data; for answers that are not in a file yet."""
    text = json.dumps(data)
    return _checked(kind, Document(text=text, data=data, root=yaml.compose(text, Loader=yaml.SafeLoader)), context)[1]


def _checked(kind: type[T] | TypeAdapter[T], document: Document, context: Any) -> tuple[T | None, list[tuple[Loc, str]]]:
    adapter = kind if isinstance(kind, TypeAdapter) else _adapter(kind)
    try:
        # By way of JSON, because strict mode then still reads lists as tuples.
        return adapter.validate_json(json.dumps(document.data), context=context), []
    except ValidationError as bad:
        said = [sentence for error in bad.errors(include_url=False) for sentence in _sentences(error, document, adapter)]
        # What is misspelt is not missing as well.
        misspelt = {(*loc[:-1], text[len(DID_YOU_MEAN_KEY) : -1]) for loc, text in said if text.startswith(DID_YOU_MEAN_KEY)}
        return None, [(loc, text) for loc, text in said if loc not in misspelt]


def shown(path: Path) -> str:
    """`path` as a person in the current directory would write it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def did_you_mean(word: str, known: Iterable[str], else_list: bool = True) -> str:
    """`did you mean …?` when something known is close to `word`; else all that is known, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    listed = f"known here: {', '.join(known)}" if else_list else ""
    return f"did you mean {close[0]}?" if close else listed


def _line(path: Path, line: int, loc: Loc, text: str) -> str:
    if len(text) > LONGEST:
        text = f"{text[: LONGEST - 100]} … {text[-100:]}"
    key = "".join(f"[{step}]" if isinstance(step, int) else f".{step:.60}" for step in loc).lstrip(".")
    return f"{shown(path)}:{line}: {key}: {text}" if key else f"{shown(path)}:{line}: {text}"


# ---- reading --------------------------------------------------------------------------------------------------------


def _read(path: Path, expected: str, empty: Any) -> Document:
    text = _text(path)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as bad:
        raise FileError(_syntax(path, text, bad)) from None
    document = Document(text=text, root=root)
    if root is None:
        if empty is None:
            raise FileError(_line(path, 1, (), f"the file is empty; {expected} is expected"))
        document.data = empty
    elif not isinstance(root, yaml.MappingNode):
        what = "a list" if isinstance(root, yaml.SequenceNode) else "a single value"
        raise FileError(_line(path, root.start_mark.line + 1, (), f"{what}; {expected} is expected"))
    else:
        document.data = _value(root, (), document, set())
    return document


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        others = sorted(other.name for other in path.parent.glob(f"*{path.suffix}")) if path.parent.is_dir() else []
        hint = f"; {did_you_mean(path.name, others)}" if others else ""
        raise FileError(f"{shown(path)}: there is no such file{hint}") from None
    except IsADirectoryError:
        raise FileError(f"{shown(path)}: a directory; a file is expected") from None
    except OSError as bad:
        raise FileError(f"{shown(path)}: cannot be read: {bad.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as bad:
        line = raw[: bad.start].count(b"\n") + 1
        raise FileError(_line(path, line, (), f"byte 0x{raw[bad.start]:02x} is not UTF-8; save the file as UTF-8")) from None


def _syntax(path: Path, text: str, bad: yaml.YAMLError) -> str:
    if isinstance(bad, yaml.reader.ReaderError):
        line = text[: bad.position].count("\n") + 1
        return _line(path, line, (), f"the character U+{ord(text[bad.position]):04X} may not stand in YAML; remove it")
    assert isinstance(bad, yaml.MarkedYAMLError)
    problem = bad.problem or "not understood"
    unclosed = "end of stream" in problem or "flow" in (bad.context or "")
    mark = bad.context_mark if unclosed and bad.context_mark else bad.problem_mark
    opened = "a quote or bracket that opens here is not closed, or a comma is missing"
    hint = opened if unclosed else next((hint for part, hint in SYNTAX_HINTS.items() if part in problem), "")
    line = mark.line + 1 if mark else 1
    return _line(path, line, (), f"not YAML: {hint or problem}")


def _value(node: yaml.Node, loc: Loc, document: Document, seen: set[int]) -> Any:
    """The plain value of `node`. What YAML would turn into something that nobody meant goes into `document.traps`."""
    line, plain = node.start_mark.line + 1, isinstance(node, yaml.ScalarNode) and node.style is None
    if id(node) in seen:
        document.traps[loc] = (document.find(loc)[0], "an alias is not allowed; write the value out")
        return None
    seen.add(id(node))
    if node.tag != RESOLVER.resolve(type(node), node.value, (plain, not plain)):
        document.traps[loc] = (line, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed; write the plain value")
        return None
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, loc, document, seen)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*loc, index), document, seen) for index, item in enumerate(node.value)]
    return _scalar(node, loc, document)


def _mapping(node: yaml.MappingNode, loc: Loc, document: Document, seen: set[int]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    first: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if not isinstance(key, yaml.ScalarNode):
            document.traps[(*loc, "?")] = (line, "a key is a plain word")
        elif name in first:
            document.duplicates.append((line, (*loc, name), f"stands here twice, first on line {first[name]}; keep one"))
        else:
            first[name] = line
            result[name] = _value(value, (*loc, name), document, seen)
    return result


def _scalar(node: yaml.ScalarNode, loc: Loc, document: Document) -> Any:
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if kind == "null":
        return None
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    if kind == "int" and DECIMAL.fullmatch(text):
        return int(text)
    if kind == "float" and FRACTION.fullmatch(text):
        return float(text)
    if kind == "bool":
        means = str(yaml.safe_load(text)).lower()
        _trap(node, loc, document, f"{means}; write \"{text}\" for the word, or {means}")
    elif kind == "int" and len(text) < MANY_DIGITS:
        _trap(node, loc, document, f'the number {yaml.safe_load(text)}; write "{text}"')
    elif kind in ("int", "float", "timestamp"):
        _trap(node, loc, document, f'{"a date" if kind == "timestamp" else "a number"}; write "{text}"')
    return text


def _trap(node: yaml.ScalarNode, loc: Loc, document: Document, meaning: str) -> None:
    document.traps[loc] = (node.start_mark.line + 1, f"YAML reads {node.value} without quotes as {meaning}")


# ---- sentences ------------------------------------------------------------------------------------------------------


def _sentences(error: Any, document: Document, adapter: TypeAdapter[Any]) -> list[tuple[Loc, str]]:
    """A pydantic error in words that say what would be right."""
    loc: Loc = tuple(step for step in error["loc"] if step != "[key]")
    kind, context = error["type"], error.get("ctx", {})
    node = document.find(loc)[1]
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    if kind == "value_error":
        cause = context["error"]
        found = cause.found if isinstance(cause, Mistakes) else [((), str(cause))]
        return [((*loc, *below), sentence) for below, sentence in found]
    if kind == "missing":
        return [(loc, "is missing" + _hint(_schema(loc, adapter)))]
    if kind == "extra_forbidden":
        return [(loc, f"unknown key; {did_you_mean(str(loc[-1]), _schema(loc[:-1], adapter).get('properties', {}))}")]
    if kind == "literal_error":
        return [(loc, f"{text or 'this'} is not {context['expected']}")]
    if kind == "too_short" and node is not None and node.value:
        return []  # its items are wrong, which is said where they stand
    return [(loc, _type_sentence(kind, node, text, context) or error["msg"])]


def _hint(schema: dict[str, Any]) -> str:
    if schema.get("examples"):
        return f"; for example: {schema['examples'][0]}"
    return f"; it needs {', '.join(schema['required'])}" if schema.get("required") else ""


def _type_sentence(kind: str, node: yaml.Node | None, text: str, context: dict[str, Any]) -> str | None:
    empty = isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")
    but = "" if empty or not text else f', not "{text}"' if isinstance(node, yaml.ScalarNode) and node.style else f", not {text}"
    sentences = {
        "json_invalid": TOO_DEEP,  # the only thing that JSON has and its reader does not take
        "string_type": "a text is expected" + (f'; write "{text}"' if text and not empty else ""),
        "int_type": f"a whole number without quotes is expected{but}",
        "bool_type": f"true or false without quotes is expected{but}",
        "model_type": "keys with values are expected here, indented, one per line",
        "dict_type": "keys with values are expected here, indented, one per line",
        "tuple_type": "a list is expected; write [one, two], or one per line after a dash",
        "list_type": "a list is expected; write [one, two], or one per line after a dash",
        "too_short": "at least one is needed",
        "greater_than_equal": f"{text} is too little; at least {context.get('ge')} is needed",
        "less_than_equal": f"{text} is too much; at most {context.get('le')} makes sense",
    }
    if empty and kind in sentences:
        return f"has no value; {sentences[kind]}"
    return sentences.get(kind)


@functools.cache
def _whole_schema(adapter: TypeAdapter[Any]) -> dict[str, Any]:
    return adapter.json_schema()


@functools.cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _schema(loc: Loc, adapter: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON schema of what is expected at `loc`."""
    whole = _whole_schema(adapter)

    def resolved(part: dict[str, Any]) -> dict[str, Any]:
        options = [option for option in part.get("anyOf", []) if option.get("type") != "null"]
        reference = (options[0] if options else part).get("$ref")
        if reference is None:
            return {**(options[0] if options else {}), **part}
        return {**whole["$defs"][reference.rsplit("/", 1)[-1]], **part}

    part = resolved(whole)
    for step in loc:
        below = part.get("items") if isinstance(step, int) else part.get("properties", {}).get(step, part.get("additionalProperties"))
        if not isinstance(below, dict):
            return {}
        part = resolved(below)
    return part
