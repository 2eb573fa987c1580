"""What is noted of the copy outside, without a server: what is not ours, and what holds far less."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from practice import ledger, offsite
from practice.engine import Snapshot

NOW = 1_800_000_000.0
MIB = 1 << 20


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for what is known of the copy outside."""
    for name, value in (("HOME", tmp_path), ("CONFIG", tmp_path / "offsite.json")):
        monkeypatch.setattr(offsite, name, value)
    offsite.CONFIG.write_text('{"max_age_minutes": 60}')
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "held", "alarms"),
    [
        ("documents", [(100 * MIB, 1000), (51 * MIB, 510), (30 * MIB, 300)], [False, False, False]),
        ("documents", [(100 * MIB, 1000), (100 * MIB, 400), (100 * MIB, 899), (100 * MIB, 900)], [False, True, True, False]),
        ("documents", [(100 * MIB, 1000), (40 * MIB, 1000), (200 * MIB, 1000)], [False, True, False]),
        ("documents", [(9 * MIB, 20), (0, 0)], [False, False]),  # a trifle
        ("documents", [(9 * MIB, 21), (0, 0)], [False, True]),
        # The oldest of three full backups goes with its differences; or another bundle holds what three did.
        ("database", [(300 * MIB, 90), (100 * MIB, 9)], [False, False]),
        ("database", [(300 * MIB, 90), (50 * MIB, 90)], [False, True]),
        ("changes", [(300 * MIB, 90), (0, 0)], [False, False]),
    ],
)
def test_a_copy_that_holds_far_less_is_noticed(kind: str, held: list[tuple[int, int]], alarms: list[bool], outside: Path) -> None:
    """Until it holds as much again; not less and less by a little, as people work."""
    for holds, alarm_stands in zip(held, alarms, strict=True):
        ledger.weigh(kind, holds)
        said = offsite.look(NOW)[1].get("offsite-shrunk", "")
        assert (kind in said) is alarm_stands, (holds, said)


def test_what_a_person_accepts_is_what_is_compared_with(outside: Path) -> None:
    """Until then it stands, however long; afterwards what is there is enough, and less than half of that is not."""
    for holds in ((100 * MIB, 1000), (40 * MIB, 400), (40 * MIB, 400)):
        ledger.weigh("documents", holds)
    wrong = offsite.look(NOW + 400 * 86400)[1]
    assert "documents 40.0 MiB in 400 files instead of 100.0 MiB in 1000 files" in wrong["offsite-shrunk"]
    ledger.accept(NOW)
    ledger.weigh("documents", (39 * MIB, 390))
    assert "offsite-shrunk" not in offsite.look(NOW)[1]
    ledger.weigh("documents", (19 * MIB, 190))
    assert "offsite-shrunk" in offsite.look(NOW)[1]


def test_what_arrives_in_a_repository_that_counts_no_more_is_not_remembered_of_its_successor(outside: Path) -> None:
    """It would not be sent there again, or be named there by changes. Control: of the one that counts it is."""
    offsite.note(lambda state: state.update(generation="2026-12", sent={"database": {"id": "new"}}))
    for generation, known in (("2026-11", "new"), ("2026-12", "sent")):
        offsite.remember("database", {"id": "sent"}, generation)
        assert offsite.kept()["sent"] == {"database": {"id": known}}


def test_whose_a_snapshot_is() -> None:
    """What the ledger has. A run that never told its id may have made one, within an hour of its beginning, and no more than one."""
    ids = [f"{number:064x}" for number in range(6)]
    there = [Snapshot(id, at, ()) for id, at in zip(ids, (100, 200.5, 201, 4000, 199, 9e9), strict=True)]
    words = ["100", ids[0], "200", "0", ids[3], "7000", "12ab"]  # the last one was cut off while it was written
    assert [one.id for one in ledger.strangers(there, words)] == [ids[2], ids[4], ids[5]]
    assert [one.id for one in ledger.strangers(there, ["100", *ids])] == []


def test_a_run_that_never_told_its_id_accounts_for_nothing_that_comes_after_the_next_look(outside: Path) -> None:
    """Whatever it has left is there by then, and is ours from then on; a run after the look may have left one, too."""
    ids = [f"{number:064x}" for number in range(3)]
    (outside / "written-2026-11").write_text(f"100 {ids[0]}\n200\n210")
    there = [Snapshot(ids[0], 100, ()), Snapshot(ids[1], 201, ())]
    engine: Any = SimpleNamespace(generation="2026-11", snapshots=lambda: there)
    ledger.look(engine, NOW)
    assert offsite.kept().get("foreign", {}) == {}
    there.append(Snapshot(ids[2], 211, ()))
    ledger.look(engine, NOW)
    assert offsite.kept()["foreign"] == {ids[2]: 211}, "by the run at 210"
    offsite.note(lambda state: state.pop("foreign"))
    ledger.add(outside / "written-2026-11", "\n205")
    ledger.look(engine, NOW)
    assert offsite.kept().get("foreign", {}) == {}, "by the run at 205"


# The first copy arrives, but its answer gets lost.
RESTIC = """#!/bin/sh
case "$1" in
snapshots) cat {there} ;;
backup)
    test ! -e {first} || {{ echo '{{"snapshot_id": "{ids[1]}", "total_bytes_processed": 1, "total_files_processed": 1}}'; exit; }}
    touch {first}
    echo "Fatal: no answer" >&2
    exit 1 ;;
esac
"""


def test_a_copy_whose_answer_got_lost_is_ours(outside: Path) -> None:
    """Restic is called again, and makes another; control: a third one at that time is none."""
    restic, there, ids = outside / "restic", outside / "there", [f"{number:064x}" for number in range(3)]
    restic.write_text(RESTIC.format(there=there, first=outside / "first", ids=ids))
    restic.chmod(0o755)
    there.write_text("[]")
    engine = ledger.Written("2027-01", "", {}, outside / "cache", str(restic))
    assert engine.back_up([outside], "documents") == ids[1]
    said = [{"id": id, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1))} for id in ids]
    there.write_text(json.dumps(said[:2]))
    ledger.look(engine, time.time())
    assert "foreign" not in offsite.kept()
    there.write_text(json.dumps(said))
    ledger.look(engine, time.time())
    assert set(offsite.kept()["foreign"]) == {ids[2]}


class Slow:
    """A repository that takes its time to answer."""

    generation = "2027-01"

    def snapshots(self) -> list[Snapshot]:
        """One."""
        time.sleep(0.2)
        return [Snapshot("f" * 64, NOW, ())]


def test_two_that_begin_a_ledger_at_once_begin_one(outside: Path) -> None:
    """After an update, what sends and what reads; and what a power cut has left of it is no word of it."""
    (outside / ".written-2027-01").write_text("cut off")
    engine, found = Slow(), []

    def begin(engine: Any) -> None:
        found.append(ledger.opened(engine, NOW).read_text())

    both = [threading.Thread(target=begin, args=(engine,)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found == ["f" * 64] * 2
