"""What the benches make of their figures: a miss is called one, and a run that changed something is no figure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kit import paths
from kit.bench_backup import Row as Backup
from kit.bench_growth import Line, growth
from kit.bench_rerun import ANSIBLE, KIT, MITOGEN, PLAIN, SIXTY, WHOLE, Row, aims, far_clinic, nothing_changed, recap_says_so
from kit.clinic import load


def rows(kit: float) -> list[Row]:
    """Runs in which the others took 10 s, Ansible 50 s, at every distance."""
    took = {KIT: kit, PLAIN: 10, MITOGEN: 10, ANSIBLE: 50}
    sixty = [Row(SIXTY, tool, ms, seconds, 1, 1, 1) for tool, seconds in took.items() for ms in (0, 20, 100)]
    return [*sixty, Row(WHOLE, KIT, 100, kit * 10, 1, 1, 1)]


@pytest.mark.parametrize(("kit", "met"), [(1, [True] * 6), (2.5, [False, True, True, False, True, True]), (3, [False] * 6)])
def test_an_aim_is_met_or_missed(kit: float, met: list[bool]) -> None:
    """The whole within 1.5 times its floor and 5 s; four, ten and twenty times as fast as the others."""
    assert list(aims(rows(kit), {WHOLE: {"script": 10}, SIXTY: {"script": 1}}).values()) == met


def test_a_run_that_changed_something_is_no_figure() -> None:
    """By each tool's own word; one that did nothing at all is none either."""
    totals = {"no_change": 60, "success": 0, "error": 0}
    said = [{}, {"success": 1}, {"error": 1}, {"no_change": 0}]
    assert [nothing_changed(json.dumps({"results": {"totals": totals | one}})) for one in said] == [True, False, False, False]
    recaps = ["ok=12   changed=0    unreachable=0    failed=0", "ok=12   changed=1    unreachable=0    failed=0", "ok=0    changed=0"]
    assert [recap_says_so(recap) for recap in recaps] == [True, False, False]


def test_the_far_server_is_described_as_the_near_one(tmp_path: Path) -> None:
    """Else the deploy over the line would find something to change; only the way in differs."""
    sshd = SimpleNamespace(scratch=tmp_path, key=tmp_path / "key", line=SimpleNamespace(port=2222))
    far = load(far_clinic(sshd))  # type: ignore[arg-type]
    assert far.connect is not None and far.connect.port == 2222
    assert far.model_copy(update={"connect": None}) == load(paths.ROOT / "clinics/vagrant.yaml")


GOOD = Backup(1000, 10, 13, 100, 2, 10, 10, 13, 9, 1, 9, 30, 15, 100, 80, 20, 61)


@pytest.mark.parametrize("broken", [{}, {"full_s": 13.1}, {"restore_s": 13.1}, {"changed_mb": 10.1}, {"tps_in_backup": 79.9}])
def test_a_backups_limit_is_kept_or_broken(broken: dict[str, float]) -> None:
    """Each of the four by itself, and none at its very edge."""
    assert replace(GOOD, **broken).kept() == (not broken)


def test_what_grows_with_the_data_is_told_from_what_does_not() -> None:
    """By a line through all measurements; and one measurement makes none."""
    figures = {mb: {"mb": mb, "restore": 3 + mb / 100, "wait": 60} for mb in (1000, 5000, 10000)}
    assert growth(figures) == {"restore": Line(3, 10, 0), "wait": Line(60, 0, 0)}
    figures[5000]["wait"] = 66
    assert growth(figures)["wait"].off > 3
    assert growth({1000: figures[1000]}) == {}
