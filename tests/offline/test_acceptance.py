"""The acceptance report says what was found, what was not looked at, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kit import deployment
from kit.acceptance import Counting, Report, ReportError, Result, Revision, Status, Verdict, build, counted, read_results
from kit.page import html as draw
from kit.page import write
from kit.register import LATER, Claim, Measure

HERE = "1f3c9a7b2d4e"
ELSEWHERE = "abc1234d9e01"
AT = datetime(2026, 11, 22, 1, 14, 59, 123456, tzinfo=UTC)

CLINIC: Any = SimpleNamespace(
    practice='Cabinet "A\\B" </style><script>alert(1)</script> & Associés',
    contact=SimpleNamespace(
        responsible="Dr <b>Haddad</b>", practice_phone="+213 21 00 00 00", vendor="Example", vendor_phone="+213 21 00 00 01"
    ),
    hostname="practice.example.org",
    timezone="Africa/Algiers",
    storage=SimpleNamespace(unlock="tpm2"),
)


def measure(kind: str = "technical", *later: str) -> Measure:
    return Measure.model_validate({"kind": kind, "from": ("swiss",), "asks": f"This {kind} thing is done.", "open": later})


MEASURES = {
    "network-closed": measure(),
    "network-log": measure("technical", "audit"),
    "network-usb": measure("technical", "usb", "hardening"),
    "backup-daily": measure(),
    "restore-drill": measure("mixed", "handbook"),
    "access-2fa": measure(),
    "rooms-locked": measure("organisational", "handbook"),
    "people-habits": measure("organisational", "handbook"),
    "surprise-forgotten": measure(),
}
CLAIMS = {
    key: Claim(id=key, says=f"The promise of {key} is kept.", measures=measures, role="firewall")
    for key, measures in {
        "SSH-10": ("access-2fa",),
        "SSH-02": ("access-2fa", "network-closed"),
        "FW-01": ("network-closed",),
        "FW-02": ("network-log",),
        "BAK-01": ("backup-daily", "restore-drill"),
        "BAK-02": ("restore-drill",),
    }.items()
}
GUIDELINES = {"swiss": {"title": "Data protection", "by": None, "year": 2026}}


def result(claim: str, outcome: str = "passed", message: str = "", revision: str = HERE) -> Result:
    return Result.model_validate(
        {"claim": claim, "outcome": outcome, "message": message, "seconds": 1.26, "revision": revision, "at": "2026-11-22T01:02:03+00:00"}
    )


def results(*found: Result) -> dict[str, Result]:
    return {one.claim: one for one in found}


ALL_HOLD = results(*map(result, CLAIMS))
MIXED = results(
    result("FW-01", "failed", "\x1b[31m4711 answered\x1b[0m\u202e </pre><img src=x onerror=alert(1)>"),
    result("FW-02"),
    result("SSH-02"),
    result("SSH-10", "error", "ssh exited with 255"),
    result("BAK-01", revision=ELSEWHERE),
)
SABOTAGED = results(result("FW-02", "failed", "went unnoticed"), result("SSH-02"), result("FW-01", "failed", "not repaired", ELSEWHERE))


def report(
    holds: dict[str, Result] = MIXED,
    can_fail: dict[str, Result] = SABOTAGED,
    checked_out: str = HERE,
    deployed: str | None = HERE,
    **kw: Any,
) -> Report:
    given = {"clinic": CLINIC, "claims": CLAIMS, "measures": MEASURES, "guidelines": GUIDELINES, "at": AT} | kw
    return build(claims_results=holds, sabotage_results=can_fail, revision=Revision(checked_out=checked_out, deployed=deployed), **given)


def row(of: Report, claim: str) -> Any:
    return next(one for one in of.claims if one.id == claim)


def statuses(of: Report) -> dict[str, Status]:
    return {one.id: one.status for chapter in of.chapters for one in chapter.measures}


class Page(HTMLParser):
    """What a browser would find in the page: tags, attributes, and the text without tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def times(self, attribute: str) -> Counter[str]:
        return Counter(value for name, value in self.attributes if name == attribute)


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


# ---- what is said about a claim and a measure ----


def test_each_outcome_has_its_verdict() -> None:
    mixed = report()
    assert {one.id: one.holds.verdict.value for one in mixed.claims} == {
        "FW-01": "no", "FW-02": "yes", "SSH-02": "yes", "SSH-10": "not run", "BAK-01": "not run", "BAK-02": "not run"
    }  # fmt: skip
    assert {one.id: one.can_fail.verdict.value for one in mixed.claims} == {
        "FW-01": "not run", "FW-02": "no", "SSH-02": "yes", "SSH-10": "not run", "BAK-01": "not run", "BAK-02": "not run"
    }  # fmt: skip
    assert mixed.summary.holds == {Verdict.YES: 2, Verdict.NO: 1, Verdict.NOT_RUN: 3}
    assert row(mixed, "SSH-10").holds.stopped and not row(mixed, "BAK-02").holds.stopped


def test_another_revision_is_shown_but_does_not_count() -> None:
    mixed = report()
    assert row(mixed, "BAK-01").holds.earlier.model_dump(mode="json") == {
        "verdict": "yes",
        "revision": ELSEWHERE,
        "at": "2026-11-22T01:02:03Z",
    }
    page = words(draw(mixed))
    assert "held at revision abc1234 on 22 November 2026" in page
    assert "its test did NOT fail when it should at revision abc1234" in page


def test_edits_make_another_revision() -> None:
    edited = report(results(result("FW-02", revision=f"{HERE}+12345678"), result("FW-01")), {}, checked_out=f"{HERE}+12345678")
    assert row(edited, "FW-02").holds.verdict is Verdict.YES
    assert row(edited, "FW-01").holds.verdict is Verdict.NOT_RUN


def test_what_the_claims_say_about_each_measure() -> None:
    assert statuses(report()) == {
        "network-closed": Status.BROKEN,
        "network-log": Status.PARTLY,
        "network-usb": Status.OPEN,
        "backup-daily": Status.NOT_RUN,
        "restore-drill": Status.NOT_RUN,
        "access-2fa": Status.PARTLY,
        "rooms-locked": Status.PEOPLE,
        "people-habits": Status.PEOPLE,
        "surprise-forgotten": Status.NOTHING,
    }


def test_covered_needs_every_claim_and_nothing_open() -> None:
    covered = [key for key, status in statuses(report(ALL_HOLD, {})).items() if status is Status.COVERED]
    assert covered == ["network-closed", "backup-daily", "access-2fa"]


def test_a_test_that_cannot_fail_covers_nothing() -> None:
    assert statuses(report(ALL_HOLD, results(result("FW-01", "failed"))))["network-closed"] is Status.PARTLY


# ---- everything is there ----


def test_every_claim_and_measure_appears_as_often_as_it_should() -> None:
    page = Page(draw(report()))
    assert page.times("data-measure") == Counter(list(MEASURES))
    assert page.times("data-claim") == Counter({key: len(claim.measures) for key, claim in CLAIMS.items()})
    assert page.times("data-attention") == Counter(["FW-01", "SSH-10", "FW-02"])
    assert page.times("data-open") == Counter({"network-log": 1, "network-usb": 2, "restore-drill": 1})
    assert page.times("data-people") == Counter(["rooms-locked", "people-habits"])


def test_chapters_and_claims_keep_their_order() -> None:
    mixed = report(claims=dict(reversed(CLAIMS.items())))
    assert [(chapter.id, [one.id for one in chapter.measures]) for chapter in mixed.chapters] == [
        ("network", ["network-closed", "network-log", "network-usb"]),
        ("backup", ["backup-daily", "restore-drill"]),
        ("access", ["access-2fa"]),
        ("people", ["rooms-locked", "people-habits"]),
        ("surprise", ["surprise-forgotten"]),
    ]
    assert [one.id for one in mixed.claims] == ["BAK-01", "BAK-02", "FW-01", "FW-02", "SSH-02", "SSH-10"]


def test_a_failure_stands_above_everything_else() -> None:
    html = draw(report())
    assert html.index('data-attention="FW-01"') < html.index('id="glance"') < html.index('data-measure="')
    assert "4711 answered" in words(html)


def test_what_is_open_is_said_in_words() -> None:
    page = words(draw(report()))
    assert f"will be covered by {LATER['usb']}; {LATER['hardening']}" in page
    assert f"still open: {LATER['audit']}" in page
    assert "Nothing covers these, and nothing is planned: surprise-forgotten" in page


# ---- what is deployed, and how it is opened ----


@pytest.mark.parametrize(
    ("checked_out", "deployed", "sentences"),
    [
        (HERE, HERE, []),
        (HERE, ELSEWHERE, ["The server does not carry what is checked out here."]),
        (HERE, None, ["It is not known which revision the server carries."]),
        (f"{HERE}+12345678", f"{HERE}+12345678", ["The tree had changes that no commit holds"]),
        (f"{HERE}+12345678", HERE, ["The server does not carry what is checked out here.", "The tree had changes that no commit holds"]),
    ],
)
def test_what_is_deployed_is_compared_with_what_is_checked_out(checked_out: str, deployed: str | None, sentences: list[str]) -> None:
    html = draw(report(checked_out=checked_out, deployed=deployed))
    assert (
        re.findall(r"<p><svg[^>]*><use href=\"#m-warning\"/></svg><strong>([^<]*)</strong>", html.partition('class="verdict"')[0])
        == sentences
    )


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        (None, "It is not known whether the backups count. The server was not asked"),
        ({"backup": False, "offsite": False}, "Not all that is backed up counts yet: the backups on their disk, the copy outside. A copy"),
        ({"backup": True, "media": False}, "Not all that is backed up counts yet: the external media. A copy"),
        (
            {"backup": True, "offsite": True},
            "The backups count (the backups on their disk, the copy outside): somebody has shown recovery kit 3, which opens them, "
            "on 21 November 2026, 10:00.",
        ),
    ],
)
def test_whether_the_backups_count_is_said_at_the_top(counts: dict[str, bool] | None, sentence: str) -> None:
    given = Counting(kit=3, shown=datetime(2026, 11, 21, 9, tzinfo=UTC), counts=counts) if counts else None
    mixed = report(counting=given)
    top = words(draw(mixed).partition('id="attention"')[0])
    assert sentence in top
    assert len(re.findall("It is not known whether|Not all that is|The backups count", top)) == 1
    assert ("What counts: the backups on their disk." in top) == (counts == {"backup": True, "media": False})
    assert Report.model_validate_json(mixed.to_json()) == mixed


def test_the_report_asks_the_server_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a look of now, whatever it ends with; control: where nobody is logged in, nothing is asked, and the report says so."""
    monkeypatch.setattr(deployment.paths, "state_dir", lambda: tmp_path)
    said = json.dumps({"recovery": {"number": 0, "confirmed": None}, "counts": {"backup": False}}).encode()
    answers = {"practice status --json": (1, said), "cat /etc/cabinet/revision": (0, HERE.encode())}
    shell = SimpleNamespace(run=lambda line: SimpleNamespace(rc=answers[line][0], stdout=answers[line][1]), close=lambda: None)
    for alive, sentence in ((True, "counts yet: the backups on their disk."), (False, "It is not known whether the backups count.")):
        connection: Any = SimpleNamespace(alive=lambda alive=alive: alive, shell=lambda: shell)
        html, *_ = deployment.write_report("haddad", CLINIC, connection)
        assert sentence in words(html.read_text())


def test_what_the_server_says_of_its_kit_is_read() -> None:
    """As `practice status --json` prints it; a server of an older revision, a locked one, or none at all has said nothing."""
    seen = {"recovery": {"number": 3, "confirmed": AT.timestamp()}, "counts": {"backup": True}}
    assert counted(json.dumps(seen)) == Counting(kit=3, shown=AT.replace(microsecond=0), counts={"backup": True})
    unshown = counted(json.dumps(seen | {"recovery": {"number": 0, "confirmed": None}, "counts": {"backup": False}}))
    assert unshown == Counting(kit=0, shown=None, counts={"backup": False})
    older = {"recovery": {"number": 3, "confirmed": AT.timestamp()}}
    assert [counted(said) for said in ("", "command not found", "[]", json.dumps(older), json.dumps(seen | {"recovery": {}}))] == [None] * 5


@pytest.mark.parametrize(("unlock", "answer"), [("tpm2", "The whole server NO."), ("passphrase", "The whole server Yes, once it is off")])
def test_a_stolen_server_is_not_a_stolen_disk(unlock: str, answer: str) -> None:
    page = words(draw(report(clinic=SimpleNamespace(**{**vars(CLINIC), "storage": SimpleNamespace(unlock=unlock)}))))
    assert answer in page
    assert "without the server it belongs to Yes. What is on it cannot be read." in page


@pytest.mark.parametrize(
    ("holds", "headline"),
    [
        ({}, "Nothing is known yet: none of the 6 claims was run at this revision."),
        (ALL_HOLD, "All 6 claims hold."),
        (results(result("FW-01")), "1 of 6 claims hold. 5 were not run."),
        (MIXED, "1 of 6 claims does not hold, and 3 were not run."),
        (MIXED | results(result("FW-02", "failed")), "2 of 6 claims do not hold, and 3 were not run."),
    ],
)
def test_the_headline(holds: dict[str, Result], headline: str) -> None:
    assert headline in words(draw(report(holds)))


def test_an_empty_register_is_said_to_be_empty() -> None:
    empty = report(claims={})
    assert "No claim has been made yet." in words(draw(empty))
    assert [key for key, status in statuses(empty).items() if status in (Status.COVERED, Status.PARTLY)] == []


# ---- the page and the file ----


def test_nothing_in_a_message_or_a_name_becomes_markup() -> None:
    html = draw(report())
    page = Page(html)
    assert {tag: page.tags[tag] for tag in ("script", "img", "b", "style")} == {"script": 0, "img": 0, "b": 0, "style": 1}
    assert "</pre><img src=x onerror=alert(1)>" in page.text
    assert '"A\\B" </style><script>alert(1)</script>' in page.text
    assert [character for character in ("\x1b", "\u202e") if character in html] == []


def test_the_page_needs_nothing_from_outside() -> None:
    page = Page(draw(report()))
    assert [value for name, value in page.attributes if name in ("src", "href", "xlink:href", "action") and not value.startswith("#")] == []
    assert re.findall(r"@import|url\((?!#hatch)|https?://", page.text) == []
    assert "default-src 'none'; style-src 'unsafe-inline'" in [value for name, value in page.attributes if name == "content"]


def test_every_mark_that_is_used_is_drawn() -> None:
    page = Page(draw(report()))
    assert {value for name, value in page.attributes if name == "href"} <= {f"#{value}" for name, value in page.attributes if name == "id"}


def test_a_long_message_is_shortened_on_the_page_alone() -> None:
    long = report(results(result("FW-01", "failed", "\n".join(f"line {n}" for n in range(99)))))
    page = words(draw(long))
    assert "line 39 " in page and "line 40 " not in page and "the whole message is in acceptance.json" in page
    assert row(long, "FW-01").holds.message.endswith("line 98")


def test_json_comes_back_as_the_same_report() -> None:
    mixed = report()
    assert Report.model_validate_json(mixed.to_json()) == mixed
    assert json.loads(mixed.to_json())["summary"]["holds"] == {"yes": 2, "no": 1, "not run": 3}


def test_the_same_results_give_the_same_bytes() -> None:
    one, other = report(), report(dict(reversed(MIXED.items())), claims=dict(reversed(CLAIMS.items())))
    assert (one.to_json(), draw(one)) == (other.to_json(), draw(other))


def test_the_time_is_the_clinics() -> None:
    assert "Sunday 22 November 2026, 02:14 (Africa/Algiers, UTC+01:00)" in words(draw(report()))


def test_written_files_match_their_checksums(tmp_path: Path) -> None:
    mixed = report()
    paths = write(mixed, tmp_path / "report")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["acceptance.html", "acceptance.json", "acceptance.sha256"]
    checked = subprocess.run(["sha256sum", "-c", paths["sha256"].name], cwd=tmp_path / "report", capture_output=True, text=True, check=True)
    assert checked.stdout == "acceptance.html: OK\nacceptance.json: OK\n"
    assert mixed.checksum() in paths["html"].read_text() and mixed.checksum() in paths["sha256"].read_text()
    assert "This is a checksum, not a signature" in words(paths["html"].read_text())


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(report(), tmp_path)
    before = paths["html"].read_bytes()

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(report(ALL_HOLD), tmp_path)
    assert paths["html"].read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


# ---- what goes in ----


def test_the_last_line_about_a_claim_counts(tmp_path: Path) -> None:
    path = tmp_path / "claims.jsonl"
    lines = [result("FW-01", "failed", "separator\u2028inside"), result("FW-02"), result("FW-01")]
    path.write_text("".join(line.model_dump_json() + "\n" for line in lines), encoding="utf-8")
    assert {key: one.outcome for key, one in read_results(path).items()} == {"FW-01": "passed", "FW-02": "passed"}
    assert read_results(tmp_path / "missing.jsonl") == {}


@pytest.mark.parametrize("bad", ['{"claim": "FW-', '{"claim": "FW-01"}', result("FW-01").model_dump_json().replace("passed", "maybe")])
def test_a_broken_line_is_named_with_its_remedy(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "claims.jsonl"
    path.write_text(result("FW-02").model_dump_json() + "\n" + bad, encoding="utf-8")
    with pytest.raises(ReportError, match=r"claims\.jsonl:2: .*; remove the line and run its test again"):
        read_results(path)


def test_a_claim_for_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ReportError, match="measures.yaml does not have: network-closed"):
        report(measures={key: value for key, value in MEASURES.items() if key != "network-closed"})
