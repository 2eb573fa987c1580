"""The moment that a drill restores to, without a server: rows are counted only where nobody could have changed them meanwhile."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from practice import drilled, rehearsal
from practice.server import Trouble
from tests.offline.test_practice import DRILL

QUIET = {"moment": "then", "writing": 0, "snapshot": "9:9:"}


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each try finds, which the test fills in; two databases, of which each shows what had ended at "9:9:"."""
    found: list[dict[str, Any]] = []

    def sql(statement: str) -> Any:
        if statement == rehearsal.SWITCH:
            return "segment"
        return found.pop(0) if "UPDATE cabinet.canary" in statement else None

    def sight(database: str) -> AbstractContextManager[Any]:
        return nullcontext(SimpleNamespace(snapshot="9:9:", rows=lambda: {"16384": len(database)}))

    monkeypatch.setattr(rehearsal, "sql", sql)
    monkeypatch.setattr(rehearsal, "archived", lambda segment: None)
    monkeypatch.setattr(rehearsal, "names", lambda: ["postgres", "practice2"])
    monkeypatch.setattr(rehearsal, "Sight", sight)
    monkeypatch.setattr(rehearsal.time, "sleep", lambda seconds: None)
    return found


@pytest.mark.parametrize("busy", [{"writing": 1}, {"snapshot": "9:10:"}, {"snapshot": "8:9:8"}])
def test_a_moment_at_which_somebody_writes_is_passed_by(busy: dict[str, Any], nights: list[dict[str, Any]]) -> None:
    """Another one is looked for, and its rows are counted; where there is none, the drill goes on without."""
    counts = {("postgres", "16384"): 8, ("practice2", "16384"): 9}
    nights[:] = [QUIET]
    assert rehearsal.planted_in_quiet("b", "a") == ("then", counts)
    nights[:] = [QUIET | busy | {"moment": "sooner"}, QUIET | busy | {"moment": "sooner"}, QUIET]
    assert rehearsal.planted_in_quiet("b", "a") == ("then", counts)
    nights[:] = [QUIET | busy | {"moment": f"{number}"} for number in range(rehearsal.TRIES)]
    assert rehearsal.planted_in_quiet("b", "a") == (f"{rehearsal.TRIES - 1}", {})


def test_what_cannot_be_counted_is_no_reason_to_restore_nothing(nights: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a table that somebody holds locked all night."""

    def locked() -> dict[str, int]:
        raise Trouble("locked")

    monkeypatch.setattr(rehearsal, "Sight", lambda database: nullcontext(SimpleNamespace(snapshot="9:9:", rows=locked)))
    nights[:] = [QUIET]
    assert rehearsal.planted_in_quiet("b", "a") == ("then", {})


@pytest.mark.parametrize("counted", [{("d", "1"): 999}, {("d", "1"): 1001}, {}])
def test_one_row_more_or_less_is_noticed(counted: rehearsal.Counts) -> None:
    """Of what was counted; of an estimate, half is enough. Control: the same number is right."""
    rehearsal.compared({("d", "1"): 1000}, {("d", "1"): 1000}, {("d", "1"): 1000})
    with pytest.raises(Trouble, match="1 of 1 restored tables do not hold as many rows"):
        rehearsal.compared({}, counted, {("d", "1"): 1000})
    rehearsal.compared({("d", "1"): 1000}, {("d", "1"): 501}, {})


def test_the_history_says_how_much_was_counted_to_the_row() -> None:
    """None at all, too; drills of before say nothing of it."""
    said = [drilled.describe(DRILL | more) for more in ({}, {"tables_exact": 0}, {"tables_exact": 2})]
    assert ["2 tables, 1001 rows" in said[0], "2 tables (0 to the row)" in said[1], "2 tables (2 to the row)" in said[2]] == [True] * 3
