"""The acceptance report: what was promised, what was found on the running server, and what nobody has looked at yet.

Everything is passed in, nothing is looked up, so the same results give the same bytes. kit/page.py draws it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, ValidationError

from kit.clinic import Clinic
from kit.register import LATER, Claim, Measure

# A measure's chapter is the first word of its id; these words share the chapter of another one.
SHARED_CHAPTERS = {"restore": "backup", "rooms": "people"}

_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ReportError(ValueError):
    """The report cannot be made from what was given; the message names the file, the line and the remedy."""


def _plain(text: str) -> str:
    # A failing test quotes what the server said. Colours, control and text-direction characters could make it read as something else.
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _ANSI.sub("", text.replace("\r\n", "\n"))).strip()


Text = Annotated[str, AfterValidator(_plain)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Verdict(StrEnum):
    """The answer to "does it hold?" and to "can its test fail?"; nobody having looked is an answer too."""

    YES = "yes"
    NO = "no"
    NOT_RUN = "not run"


class Status(StrEnum):
    """What a measure's claims, taken together, say about it."""

    BROKEN = "does not hold"
    COVERED = "covered"
    PARTLY = "partly"
    NOT_RUN = "not run"
    OPEN = "open"
    PEOPLE = "for people"
    NOTHING = "not covered"


class Result(BaseModel):
    """One line of results/claims.jsonl or results/sabotage.jsonl, as the tests write it."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    claim: str
    outcome: Literal["passed", "failed", "error"]
    message: Text = ""
    seconds: float
    revision: str
    at: AwareDatetime


class Revision(Strict):
    """What this machine has checked out and what the server says it carries, as kit.revision names it."""

    checked_out: str
    deployed: str | None

    @property
    def differs(self) -> bool:
        """Whether the server is known to carry something else."""
        return self.deployed is not None and self.deployed != self.checked_out


class Contact(Strict):
    """Whom to call, and who is asked to sign."""

    responsible: str
    practice_phone: str
    vendor: str
    vendor_phone: str


class Counting(Strict):
    """What the server says of its recovery kit: its number (0: none was made), when it was shown, and by kind whether copies count."""

    kit: int
    shown: AwareDatetime | None
    counts: dict[str, bool]


class Earlier(Strict):
    """A verdict about another revision: worth showing, not worth counting."""

    verdict: Verdict
    revision: str
    at: AwareDatetime


class Finding(Strict):
    """One answer about one claim. `stopped` means that the test broke down before it could tell."""

    verdict: Verdict = Verdict.NOT_RUN
    seconds: float | None = None
    at: AwareDatetime | None = None
    message: str = ""
    stopped: bool = False
    earlier: Earlier | None = None


class ClaimRow(Strict):
    id: str
    says: str
    role: str
    measures: tuple[str, ...]
    holds: Finding
    can_fail: Finding


class MeasureRow(Strict):
    id: str
    kind: str
    asks: str
    asked_by: tuple[str, ...]
    status: Status
    open: tuple[str, ...]
    claims: tuple[str, ...]


class Chapter(Strict):
    id: str
    measures: tuple[MeasureRow, ...]


class Guideline(Strict):
    id: str
    title: str
    by: str | None = None
    year: int | None = None


class Summary(Strict):
    """Counts, every possible value named even when it is zero."""

    holds: dict[Verdict, int]
    can_fail: dict[Verdict, int]
    measures: dict[Status, int]


class Report(Strict):
    """The acceptance report of one server at one moment."""

    format: Literal["cabinet acceptance report 1"] = "cabinet acceptance report 1"
    practice: str
    contact: Contact
    host: str
    timezone: str
    unlock: str
    at: AwareDatetime
    revision: Revision
    counting: Counting | None = None
    summary: Summary
    chapters: tuple[Chapter, ...]
    claims: tuple[ClaimRow, ...]
    guidelines: tuple[Guideline, ...]

    def to_json(self) -> str:
        """The whole report as JSON; `Report.model_validate_json` reads it back."""
        return self.model_dump_json(indent=2) + "\n"

    def checksum(self) -> str:
        """SHA-256 of `to_json()`, as `sha256sum` prints it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def build(
    clinic: Clinic,
    claims: Mapping[str, Claim],
    measures: Mapping[str, Measure],
    claims_results: Mapping[str, Result],
    sabotage_results: Mapping[str, Result],
    *,
    revision: Revision,
    guidelines: Mapping[str, Mapping[str, Any]],
    counting: Counting | None = None,
    at: datetime | None = None,
) -> Report:
    """Puts the register and the results together; every claim and every measure of the register is in the report."""
    rows = tuple(
        ClaimRow(
            id=claim.id,
            says=claim.says,
            role=claim.role,
            measures=tuple(claim.measures),
            holds=_finding(claims_results.get(claim.id), revision),
            can_fail=_finding(sabotage_results.get(claim.id), revision),
        )
        for claim in sorted(claims.values(), key=lambda claim: _by_number(claim.id))
    )
    unknown = sorted({measure for row in rows for measure in row.measures} - set(measures))
    if unknown:
        raise ReportError(f"claims.yaml refers to measures that measures.yaml does not have: {', '.join(unknown)}")
    chapters = _chapters(measures, rows)
    zone = ZoneInfo(clinic.timezone)
    return Report(
        practice=clinic.practice,
        contact=Contact(**{field: getattr(clinic.contact, field) for field in Contact.model_fields}),
        host=clinic.hostname,
        timezone=clinic.timezone,
        unlock=clinic.storage.unlock,
        at=(at or datetime.now(zone)).astimezone(zone).replace(microsecond=0),
        revision=revision,
        counting=counting,
        summary=Summary(
            holds=_tally(Verdict, (row.holds.verdict for row in rows)),
            can_fail=_tally(Verdict, (row.can_fail.verdict for row in rows)),
            measures=_tally(Status, (measure.status for chapter in chapters for measure in chapter.measures)),
        ),
        chapters=chapters,
        claims=rows,
        guidelines=tuple(Guideline(id=key, **guideline) for key, guideline in guidelines.items()),
    )


def counted(status: str) -> Counting | None:
    """What `practice status --json` says of it; None where it says nothing of it, as from an older revision, or while it is locked."""
    try:
        seen = json.loads(status)
        kit, counts = seen["recovery"], seen["counts"]
        shown = datetime.fromtimestamp(kit["confirmed"], UTC).replace(microsecond=0) if kit["confirmed"] else None
        return Counting(kit=kit["number"], shown=shown, counts=counts)
    except (ValueError, KeyError, TypeError):
        return None


def read_results(path: Path) -> dict[str, Result]:
    """The last line about each claim. A file that is not there means that nothing was run."""
    if not path.exists():
        return {}
    results: dict[str, Result] = {}
    # Not splitlines(): it would also split at line separators inside a message.
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line:
            continue
        try:
            result = Result.model_validate_json(line)
        except ValidationError as error:
            reason = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'line'}: {e['msg']}" for e in error.errors())
            raise ReportError(f"{path}:{number}: {reason}; remove the line and run its test again") from None
        results[result.claim] = result
    return results


def _finding(result: Result | None, revision: Revision) -> Finding:
    if result is None:
        return Finding()
    verdict = {"passed": Verdict.YES, "failed": Verdict.NO, "error": Verdict.NOT_RUN}[result.outcome]
    if result.revision != revision.checked_out:
        return Finding(earlier=Earlier(verdict=verdict, revision=result.revision, at=result.at))
    return Finding(
        verdict=verdict,
        seconds=round(result.seconds, 1),
        at=result.at,
        message="" if verdict is Verdict.YES else result.message,
        stopped=result.outcome == "error",
    )


def _chapters(measures: Mapping[str, Measure], rows: Iterable[ClaimRow]) -> tuple[Chapter, ...]:
    serving: dict[str, list[ClaimRow]] = {key: [] for key in measures}
    for row in rows:
        for measure in dict.fromkeys(row.measures):
            serving[measure].append(row)
    chapters: dict[str, list[MeasureRow]] = {}
    for key, measure in measures.items():
        prefix = key.partition("-")[0]
        chapters.setdefault(SHARED_CHAPTERS.get(prefix, prefix), []).append(
            MeasureRow(
                id=key,
                kind=measure.kind,
                asks=measure.asks,
                asked_by=tuple(measure.from_),
                status=_status(measure, serving[key]),
                open=tuple(LATER[work] for work in measure.later),
                claims=tuple(row.id for row in serving[key]),
            )
        )
    return tuple(Chapter(id=key, measures=tuple(rows)) for key, rows in chapters.items())


def _status(measure: Measure, claims: list[ClaimRow]) -> Status:
    holds = {claim.holds.verdict for claim in claims}
    if Verdict.NO in holds:
        return Status.BROKEN
    if Verdict.YES in holds:
        # A test that let its sabotage pass has proved nothing, whatever it says.
        hollow = any(claim.can_fail.verdict is Verdict.NO for claim in claims)
        return Status.PARTLY if measure.later or hollow or Verdict.NOT_RUN in holds else Status.COVERED
    if claims:
        return Status.NOT_RUN
    if measure.kind == "organisational":
        return Status.PEOPLE
    return Status.OPEN if measure.later else Status.NOTHING


def _tally(values: type[StrEnum], found: Iterable[StrEnum]) -> dict[Any, int]:
    counts = Counter(found)
    return {value: counts[value] for value in values}


def _by_number(claim: str) -> tuple[str, int, str]:
    prefix, _, number = claim.partition("-")
    return prefix, int(number) if number.isdecimal() else 0, claim
