"""The register: what is promised (claims.yaml), and what the guidelines ask (measures.yaml)."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationInfo, field_validator

from kit import words, yamlmarks
from kit.paths import ROOT
from kit.yamlmarks import FileError, Loc, Mistakes, Strict

T = TypeVar("T")

CLAIMS = ROOT / "claims.yaml"
MEASURES = ROOT / "measures.yaml"

# The work to come. A measure that is open names what will close it; the report prints the sentence.
LATER = {
    "access-people": "accounts, profiles and passwords of each person in the database",
    "audit": "the record of who did what",
    "cluster": "a second machine that takes over",
    "evaluate": "the server's own checks of its claims",
    "handbook": "the practice handbook",
    "hardening": "the removal of what the server does not need",
    "incident": "containment, evidence and recovery",
    "maintenance": "maintenance windows, their reports and their supervision",
    "malware": "the virus scanner and the watch over system files",
    "network-devices": "the rules for printers, medical devices and wireless networks",
    "rights": "export, patients' rights and disposal",
    "time": "authenticated time",
    "updates": "security updates from signed sources",
    "usb": "the rules for devices that are plugged in",
}


class RegisterError(FileError):
    """What is wrong with the register, one line per mistake."""


ClaimId = Annotated[str, words.matching(r"[A-Z]+-[0-9]{2}", "an id: capital letters, a dash and two digits, such as FW-01")]
Word = Annotated[str, words.matching(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", "a word in small letters, such as network-closed")]
Sentence = Annotated[str, words.matching(r"[A-Z].{8,}[.]", "a sentence: a capital letter first, a full stop last")]


# ---- the files ------------------------------------------------------------------------------------------------------


class Promise(Strict):
    """What claims.yaml says about one id."""

    says: Sentence = Field(examples=["Inbound traffic is denied unless the clinic publishes the port."])
    measures: Annotated[tuple[Word, ...], Field(min_length=1)] = Field(examples=["[network-closed]"])
    role: Word = Field(examples=["firewall"])

    @field_validator("measures")
    @classmethod
    def are_asked_for(cls, measures: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """A claim serves measures that exist."""
        known = (info.context or {}).get("measures", measures)
        _refuse(((index,), word, known, "is not in measures.yaml") for index, word in enumerate(measures))
        return measures


class Claim(Promise):
    """One promise. Its operations, its test, its sabotage and its row in the report carry its id."""

    id: ClaimId


class Guideline(Strict):
    """A text that measures come from."""

    title: str = Field(examples=["Securing medical data"])
    by: str | None = None
    year: int | None = None


class Measure(Strict):
    """One thing that the guidelines ask of a practice."""

    kind: Literal["technical", "mixed", "organisational"] = Field(examples=["technical"])
    from_: Annotated[tuple[Word, ...], Field(min_length=1, alias="from", examples=["[algeria]"])]
    asks: Sentence = Field(examples=["One account per person."])
    later: Annotated[tuple[str, ...], Field(alias="open")] = ()

    @field_validator("later")
    @classmethod
    def is_planned(cls, open_words: tuple[str, ...]) -> tuple[str, ...]:
        """Open means that somebody will do it: only known work counts."""
        _refuse(((index,), word, LATER, "is not the name of later work") for index, word in enumerate(open_words))
        return open_words

    @property
    def open(self) -> str | None:
        """What will cover the rest of this measure, in words; None when nothing of it is left open."""
        return ", ".join(LATER[word] for word in self.later) or None


class MeasuresFile(Strict):
    """The whole of measures.yaml."""

    guidelines: dict[Word, Guideline] = Field(examples=["{algeria: {title: A guide}}"])
    measures: dict[Word, Measure] = Field(examples=["{network-closed: {kind: …, from: […], asks: …}}"])

    @field_validator("measures")
    @classmethod
    def come_from_guidelines(cls, measures: dict[str, Measure], info: ValidationInfo) -> dict[str, Measure]:
        """Each measure names the texts that ask for it, and these are listed."""
        known = info.data.get("guidelines", {})
        _refuse(
            ((key, "from", index), word, known, "is not one of the guidelines above")
            for key, measure in measures.items()
            for index, word in enumerate(measure.from_)
        )
        return measures


def _refuse(found: Iterable[tuple[Loc, str, Iterable[str], str]]) -> None:
    """Raise Mistakes for each word that is not known."""
    wrong = [(loc, f'"{word}" {what}; {yamlmarks.did_you_mean(word, known)}') for loc, word, known, what in found if word not in known]
    if wrong:
        raise Mistakes(wrong)


# ---- loading --------------------------------------------------------------------------------------------------------


@functools.cache
def load_measures(path: Path = MEASURES) -> dict[str, Measure]:
    """What the guidelines ask, by id. Raises RegisterError with one line per mistake."""
    return _load(MeasuresFile, path, expected="guidelines and measures").measures


@functools.cache
def load_guidelines(path: Path = MEASURES) -> dict[str, dict[str, Any]]:
    """The guidelines, by id: title, by, year."""
    return {key: dict(entry) for key, entry in _load(MeasuresFile, path, expected="guidelines and measures").guidelines.items()}


@functools.cache
def load_claims(path: Path = CLAIMS, measures: Path = MEASURES) -> dict[str, Claim]:
    """What is promised, by id. Raises RegisterError with one line per mistake."""
    promises: TypeAdapter[dict[str, Promise]] = TypeAdapter(dict[ClaimId, Promise])
    known = {"measures": load_measures(measures)}
    loaded = _load(promises, path, expected="ids, each with says, measures and role", context=known, empty={})
    return {key: Claim(id=key, **dict(promise)) for key, promise in loaded.items()}


def claim(id: str) -> Claim:
    """The claim `id`. Raises RegisterError, with the id that was probably meant, when claims.yaml has none."""
    claims = load_claims()
    if id not in claims:
        guess = yamlmarks.did_you_mean(id, claims, else_list=False)
        raise RegisterError(f"{id} is not in claims.yaml; {guess or 'write down there what it promises'}")
    return claims[id]


def _load(kind: type[T] | TypeAdapter[T], path: Path, **how: Any) -> T:
    try:
        return yamlmarks.load(kind, path, **how)
    except FileError as bad:
        raise RegisterError(*bad.args) from None
