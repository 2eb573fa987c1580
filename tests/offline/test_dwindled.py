"""Whether far less arrives at the off-site host than used to: over three months of what a practice sends, and after a sudden end of it."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.offline.test_keeper import DAY, HOUR, NOW, account
from tests.restserver import keeper

MIB = 1 << 20
MONTHS = (0, 30, 61, 92)  # days on which a repository is begun
END = 122


@pytest.fixture
def host(tmp_path: Path) -> ModuleType:
    """The module alone: nothing lies on the disk."""
    return keeper(tmp_path)


def practice(fill_hours: float, full: int, idle: int) -> list[tuple[float, int, int]]:
    """What arrives: when (days), into which repository, how much (MiB).

    A full backup each Sunday, now and then hours late, what changed each night and, on working days, each hour; no one works for a week
    of the second month, in which `idle` arrives; 60 GiB of old images are taken in one day of the third. Each new repository takes five
    full backups and the documents, for `fill_hours`, while the old one is sent to.
    """
    chance, found = random.Random(17), []
    for day in range(END):
        of = sum(begun <= day for begun in MONTHS) - 1
        since = (day - MONTHS[of]) * 24
        into = of - 1 if of and since < fill_hours else of
        works = day % 7 < 5 and not 40 <= day < 47
        found += [(day + hour / 24, into, (20 if works and 8 <= hour < 18 else 0) + (idle if hour == 3 else 0)) for hour in range(24)]
        if day % 7 == 6:
            found.append((day + (1 + chance.random() * 10) / 24, into, full))
        if day == 75:
            found.append((day + 0.5, into, 60 << 10))
    for number, begun in enumerate(MONTHS):
        hours = int(fill_hours) + 1
        found += [(begun + (hour + 1) / 24, number, (5 * full + 20_000) // hours) for hour in range(hours)]
    return sorted(found)


def generations(host: ModuleType, arrived: list[tuple[float, int, int]], until: float, dry: float = 1e9) -> list[Any]:
    """The repositories as they are on a day; from the day `dry` on snapshots come as ever, and next to nothing is in them."""
    start = NOW - END * DAY
    return [
        host.Generation(
            f"month-{number}",
            tuple(start + at * DAY for at, into, _ in arrived if into == number and at <= until),
            tuple((start + at * DAY, 4096 if at >= dry else size * MIB) for at, into, size in arrived if into == number and at <= until),
        )
        for number in range(len(MONTHS))
        if any(into == number and at <= until for at, into, _ in arrived)
    ]


def judged(host: ModuleType, kept: list[Any], day: float) -> set[str]:
    """What looks wrong on that day, to whoever looked an hour before."""
    now = NOW - (END - day) * DAY
    return set(host.judge(account(host, quota=1 << 50), kept, now, {"since": 0, "looked": now - HOUR}))


PRACTICES = {
    "fast line": (1, 10_000, 200),
    "slow line": (6 * 24, 10_000, 200),
    "little but full backups": (1, 10_000, 2),
    "few data": (1, 300, 5),
}


@pytest.mark.parametrize("which", PRACTICES)
def test_an_ordinary_practice_is_no_alarm(host: ModuleType, which: str) -> None:
    """At no time of the day, in three months."""
    arrived = practice(*PRACTICES[which])
    alarms = {hour / 24 for hour in range(24, END * 24, 5) if judged(host, generations(host, arrived, hour / 24), hour / 24)}
    assert sorted(alarms) == []


@pytest.mark.parametrize("which", PRACTICES)
def test_a_sudden_shrink_is_noticed(host: ModuleType, which: str) -> None:
    """Whatever day of the month it begins on: when a week and half a day are over, which a late full backup is given, it is told."""
    arrived = practice(*PRACTICES[which])
    for dry in range(MONTHS[2], MONTHS[3]):
        day = dry + 7.5 + 1 / 24
        assert "dwindled" in judged(host, generations(host, arrived, day, dry), day), f"it began on day {dry - MONTHS[2]}"
        assert "dwindled" not in judged(host, generations(host, arrived, day), day), "control: it would not be told without"
