"""The keeper of the off-site host, without one: what looks wrong, what may go, and that nothing goes while anything looks wrong."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kit.paths import ROOT
from tests.restserver import ACCOUNT, keeper

NOW = 1_800_000_000.0
HOUR, DAY = 3600, 86400
LOOKED = {"looked": NOW - HOUR, "since": 0}


@pytest.fixture
def host(tmp_path: Path) -> ModuleType:
    """The module, with its store in a directory of the test's own."""
    return keeper(tmp_path)


def account(host: ModuleType, **changed: Any) -> Any:
    """As a practice agreed."""
    return host.Account(**({"name": ACCOUNT, "keep_days": 35, "quota": 100 << 30, "silence_hours": 2} | changed))


def generation(host: ModuleType, name: str, begun: float, ended: float, size: int = 100 << 20, every: float = 0.25 * HOUR) -> Any:
    """A repository into which a snapshot came regularly, from `begun` to `ended` (days ago); each day brought as much."""
    moments = [NOW - begun * DAY + step * every for step in range(int((begun - ended) * DAY / every) + 1)]
    return host.Generation(name, tuple(moments), tuple((at, size // len(moments)) for at in moments))


def usual(host: ModuleType) -> list[Any]:
    """A practice that has sent for four months."""
    return [
        generation(host, "2026-09", 120, 90),
        generation(host, "2026-10", 90, 60),
        generation(host, "2026-11", 60, 30),
        generation(host, "2026-12", 30, 0),
    ]


def test_what_is_as_it_should_be(host: ModuleType) -> None:
    """Nothing is wrong, and exactly what is not needed to reach back 35 days goes."""
    assert host.judge(account(host), usual(host), NOW, LOOKED) == {}
    assert host.expired(account(host), usual(host), NOW) == ["2026-09", "2026-10"]


def test_each_moment_within_the_days_is_kept(host: ModuleType) -> None:
    """Whatever the months are like: what goes holds nothing that arrived within 35 days, and what stays begins before them."""
    for shift in range(0, 60):
        kept = [
            generation(host, f"{number}", begun + shift / 2, max(0, begun - 30 + shift / 2), every=6 * HOUR)
            for number, begun in enumerate((110, 80, 50, 20))
        ]
        gone = host.expired(account(host), kept, NOW)
        stays = [one for one in kept if one.name not in gone]
        assert [one.name for one in kept if one.name in gone and one.last > NOW - 35 * DAY] == []
        assert min(one.snapshots[0] for one in stays) < NOW - 35 * DAY


def test_the_last_one_never_goes(host: ModuleType) -> None:
    """However old it is, and whatever was begun beside it without ever holding a snapshot."""
    old = generation(host, "2026-01", 400, 370)
    empty = host.Generation("2026-02", (), ((NOW - 300 * DAY, 155),))
    assert host.expired(account(host), [old], NOW) == []
    assert host.expired(account(host), [old, empty], NOW) == ["2026-02"]
    assert host.expired(account(host), [empty], NOW) == []


def test_a_new_repository_does_not_push_out_the_old_one(host: ModuleType) -> None:
    """A hundred begun today, by whoever has the practice's password: the old one stays for its days."""
    genuine = generation(host, "2026-11", 40, 0.5)
    forged = [generation(host, f"x{number}", 0.4, 0, every=HOUR) for number in range(100)]
    assert host.expired(account(host), [genuine, *forged], NOW) == []
    assert host.expired(account(host), [genuine, *forged], NOW + 34 * DAY) == []


def test_a_new_repository_takes_its_time(host: ModuleType) -> None:
    """On a slow line the first week of it holds little, and the old one is sent to meanwhile."""
    assert host.judge(account(host), [generation(host, "2026-11", 36, 0), generation(host, "2026-12", 6, 0, 1 << 20)], NOW, LOOKED) == {}


WRONG = {
    "silence": ({}, [("2026-12", 30, 0.1)]),
    "future": ({}, [("2026-12", 30, -1)]),
    "shrunk": ({}, [("2026-11", 60, 30), ("2026-12", 30, 0, 10 << 20)]),
    "past": ({}, [("2026-11", 60, 0), ("2026-12", 30, 0)]),
    "quota": ({"quota": 110 << 20}, [("2026-12", 30, 0)]),
    "flood": ({}, [("2026-12", 3, 0, 100 << 20, 60)]),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_noticed(host: ModuleType, what: str) -> None:
    """Each by itself, and nothing else with it."""
    agreed, kept = WRONG[what]
    assert set(host.judge(account(host, **agreed), [generation(host, *one) for one in kept], NOW, LOOKED)) == {what}


def test_a_stream_that_runs_dry_is_noticed(host: ModuleType) -> None:
    """Snapshots come as ever, but next to nothing is in them; in the first weeks of a repository that cannot be told yet."""
    moments = [NOW - 30 * DAY + step * HOUR for step in range(30 * 24 + 1)]
    files = tuple((at, 1 << 20 if at < NOW - 7 * DAY else 100) for at in moments)
    dry = host.Generation("2026-12", tuple(moments), files)
    assert set(host.judge(account(host), [dry], NOW, LOOKED)) == {"dwindled"}
    young = host.Generation("2026-12", tuple(moments[-24 * 15 :]), files[-24 * 15 :])
    assert host.judge(account(host), [young], NOW, LOOKED) == {}


@pytest.mark.parametrize("looked", [NOW + DAY, NOW - 4 * DAY, NOW - 400 * DAY])
def test_a_clock_that_jumped_removes_nothing(host: ModuleType, looked: float) -> None:
    """Backwards or forwards, or a host that was off for days: a person looks before anything goes."""
    assert set(host.judge(account(host), usual(host), NOW, {"looked": looked})) == {"clock"}


def test_nobody_ever_came(host: ModuleType) -> None:
    """An account that stays empty is silent too, from the day on which it was made."""
    assert host.judge(account(host), [], NOW, {}) == {}
    assert set(host.judge(account(host), [], NOW, {"since": NOW - 3 * HOUR, "looked": NOW - HOUR})) == {"silence"}


def store(host: ModuleType, name: str, *days: float) -> Path:
    """A repository on the disk, with a snapshot that arrived so many days ago for each of `days`."""
    repository = host.repositories(ACCOUNT) / name
    for number, ago in enumerate(days):
        for kind in ("snapshots", "data/aa", "locks"):
            file = repository / kind / f"{number:064x}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("x" * 1000)
            os.utime(file, (time.time() - ago * DAY,) * 2)
    return repository


def test_a_look_removes_what_is_old(host: ModuleType) -> None:
    """From the disk; and it is written down that nothing was wrong."""
    old, new = store(host, "2026-09", 90, 60), store(host, "2026-11", 60, 40, 0)
    assert host.look(account(host), time.time()) == {}
    assert (old.exists(), new.exists()) == (False, True)
    assert json.loads((host.LEDGERS / f"{ACCOUNT}.json").read_text())["removed"] == ["2026-09"]


def restarts(host: ModuleType) -> list[str]:
    """What was asked of systemd."""
    path = Path(host.SYSTEMCTL).with_name("restarts")
    return path.read_text().splitlines() if path.exists() else []


RESTART = f"try-restart cabinet-vault-{ACCOUNT}.service"


def test_the_server_counts_anew_after_a_removal(host: ModuleType) -> None:
    """Once, and by the name that roles/vault.py gives it; a look that removes nothing disturbs nobody."""
    store(host, "2026-09", 90, 60), store(host, "2026-11", 60, 40, 0)
    assert host.look(account(host), time.time()) == {}
    assert restarts(host) == [RESTART]
    assert host.look(account(host), time.time()) == {}
    assert restarts(host) == [RESTART]
    assert 'f"cabinet-vault-{account.name}.service"' in (ROOT / "roles/vault.py").read_text()


@pytest.mark.parametrize("cut", ["counts_anew", "remove"])
def test_a_restart_is_not_forgotten(host: ModuleType, cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power goes before the restart, or while something is removed: the next look makes up for it, whatever is wrong by then."""
    old, done = store(host, "2026-09", 90, 60), getattr(host, cut)
    store(host, "2026-11", 60, 40, 0)

    def power_cut(of: Any) -> None:
        """After the removal, and before all else."""
        if cut == "remove":
            done(of)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(host, cut, power_cut)
        with pytest.raises(KeyboardInterrupt):
            host.look(account(host), time.time())
    assert (old.exists(), restarts(host)) == (False, [])
    for _ in range(2):
        assert set(host.look(account(host), time.time() + 3 * HOUR)) == {"silence"}
        assert restarts(host) == [RESTART]


def test_a_server_that_cannot_be_restarted_is_told_of(host: ModuleType) -> None:
    """Each look tries first; while it cannot, that stands among what is wrong, and afterwards no longer."""
    store(host, "2026-09", 90, 60), store(host, "2026-11", 60, 40, 0)
    works = Path(host.SYSTEMCTL).read_text()
    Path(host.SYSTEMCTL).write_text("#!/bin/sh\nexit 1\n")
    assert host.look(account(host), time.time()) == {}, "the next look may still succeed"
    assert set(host.look(account(host), time.time())) == {"recount"}
    Path(host.SYSTEMCTL).write_text(works)
    assert host.look(account(host), time.time()) == {}
    assert restarts(host) == [RESTART]


def test_what_breaks_off_while_it_is_removed_goes_with_the_next_run(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is out of sight already, and nothing else may ever be old enough to go."""
    (host.STORE / ".removed/half").mkdir(parents=True)
    host.CONFIG.write_text("[]")
    monkeypatch.setattr("sys.argv", ["keeper.py"])
    assert host.main() == 0
    assert not (host.STORE / ".removed").exists()


def test_a_look_removes_nothing_while_something_is_wrong(host: ModuleType) -> None:
    """The same repositories, but nothing has come for three hours; when it comes again, what is old goes."""
    old, new = store(host, "2026-09", 90, 60), store(host, "2026-11", 60, 40, 0.2)
    assert set(host.look(account(host), time.time())) == {"silence"}
    assert (old.exists(), new.exists()) == (True, True)
    store(host, "2026-11", 60, 40, 0.2, 0)
    assert host.look(account(host), time.time()) == {}
    assert not old.exists()


def test_a_person_confirms_the_clock(host: ModuleType) -> None:
    """Until then each look says it again: a clock that is wrong for long does not become right by that."""
    old = store(host, "2026-09", 90, 60)
    store(host, "2026-11", 60, 40, 0)
    ledger = host.LEDGERS / f"{ACCOUNT}.json"
    ledger.write_text(json.dumps({"since": 0, "looked": time.time() - 10 * DAY}))
    for _ in range(2):
        assert set(host.look(account(host), time.time())) == {"clock"} and old.exists()
    assert host.look(account(host), time.time(), confirmed=True) == {}
    assert not old.exists()


# The repositories, by when their snapshots arrived: the first of them is old enough to go.
DOUBTED = {
    "shrunk": {"2026-09": [60 + step for step in range(30, 0, -1)], "2026-11": [60, 45, 40, 0]},
    "past": {"2026-09": [90, 60, 40], "2026-11": [60, 30, 0]},
}


@pytest.mark.parametrize("what", DOUBTED)
def test_a_person_confirms_what_the_last_look_told(host: ModuleType, what: str) -> None:
    """Each look tells it, with the way to go on; once a person has, what is old goes, and no later look tells it again."""
    old, new = (store(host, name, *days) for name, days in DOUBTED[what].items())
    for _ in range(2):
        (text,) = (wrong := host.look(account(host), time.time())).values()
        assert (set(wrong), old.exists()) == ({what}, True)
    assert text.endswith(f"sudo python3 /usr/local/lib/cabinet/keeper.py --confirm {ACCOUNT}")
    assert host.look(account(host), time.time(), confirmed=True) == {}
    assert (old.exists(), new.exists(), restarts(host)) == (False, True, [RESTART])
    assert host.look(account(host), time.time()) == {}


def test_what_nobody_was_told_of_is_not_confirmed(host: ModuleType) -> None:
    """Whoever confirms beforehand, or while something newer arrives, has not looked at it."""
    old = store(host, "2026-09", 90, 60, 40)
    store(host, "2026-11", 60, 30, 0)
    assert set(host.look(account(host), time.time(), confirmed=True)) == {"past"}
    store(host, "2026-09", 90, 60, 40, 39)
    assert set(host.look(account(host), time.time(), confirmed=True)) == {"past"}
    assert old.exists()
    assert host.look(account(host), time.time(), confirmed=True) == {}
    assert not old.exists()


def test_an_old_repository_that_is_written_to_again_is_told_again(host: ModuleType) -> None:
    """A person has confirmed what had arrived there until then, and nothing that comes later."""
    store(host, "2026-09", 90, 60, 20)
    store(host, "2026-11", 60, 30, 0)
    host.look(account(host), time.time())
    assert host.look(account(host), time.time(), confirmed=True) == {}
    assert host.look(account(host), time.time()) == {}
    old = store(host, "2026-09", 90, 60, 20, 0)
    assert set(host.look(account(host), time.time())) == {"past"} and old.exists()


def confirmed(host: ModuleType, kept: list[Any]) -> dict[str, Any]:
    """The ledger after a look at these repositories, and a person's."""
    return host.confirm(LOOKED | {"doubted": {one.key: one.until for one in host.doubts(kept, NOW)}}, NOW)


def test_another_repository_that_shrinks_is_told(host: ModuleType) -> None:
    """The next one, and one that has taken the name of a confirmed one which is gone."""
    small = [generation(host, "2026-10", 90, 60), generation(host, "2026-11", 60, 30, 10 << 20)]
    ledger = confirmed(host, small)
    assert set(host.judge(account(host), [*small, generation(host, "2026-12", 30, 0, 10 << 20)], NOW, LOOKED)) == {"shrunk"}, "control"
    assert host.judge(account(host), [*small, generation(host, "2026-12", 30, 0, 10 << 20)], NOW, ledger) == {}
    assert set(host.judge(account(host), [*small, generation(host, "2026-12", 30, 0, 1 << 20)], NOW, ledger)) == {"shrunk"}
    again = [generation(host, "2026-10", 40, 20), generation(host, "2026-11", 20, 0, 10 << 20)]
    assert set(host.judge(account(host), again, NOW, ledger)) == {"shrunk"}


def test_two_that_shrink_are_both_told(host: ModuleType) -> None:
    """What a person confirms was said."""
    kept = [generation(host, "2026-10", 90, 60), generation(host, "2026-11", 60, 30, 10 << 20), generation(host, "2026-12", 30, 0, 1 << 20)]
    text = host.judge(account(host), kept, NOW, LOOKED)["shrunk"]
    assert ("2026-11 holds" in text, "2026-12 holds" in text) == (True, True)
    assert host.judge(account(host), kept, NOW, confirmed(host, kept)) == {}


@pytest.mark.parametrize(("ago", "silent"), [(0, False), (2.9, False), (3.1, True), (-0.2, True), (None, True)])
def test_a_keeper_that_looks_no_more_is_noticed(host: ModuleType, ago: float | None, silent: bool) -> None:
    """After three hours, also when it never has, or did so by a clock that was ahead: its own unit fails then."""
    unit = (ROOT / "files/vault/cabinet-silence.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    line = line.removeprefix("ExecStart=").replace("$$", "$")
    assert "/var/lib/cabinet-vault/looked" in line, "control: that is where the keeper writes"
    if ago is not None:
        host.write(host.LEDGERS / "looked", "")
        os.utime(host.LEDGERS / "looked", (time.time() - ago * HOUR,) * 2)
    done = subprocess.run(["sh", "-c", line.replace("/var/lib/cabinet-vault", str(host.LEDGERS))], check=False)
    assert done.returncode == int(silent)


def test_a_lock_counts_for_nothing(host: ModuleType) -> None:
    """Whoever only locks has not sent anything."""
    store(host, "2026-11", 3, 2)
    lock = host.repositories(ACCOUNT) / "2026-11/locks/now"
    lock.write_text("x")
    assert set(host.look(account(host), time.time())) == {"silence"}


def test_a_refused_upload_is_no_snapshot(host: ModuleType) -> None:
    """rest-server leaves an empty file of what its quota refused; a practice that gets nothing through any more is silent."""
    repository = store(host, "2026-11", 3, 2)
    (repository / "snapshots" / f"{7:064x}.rest-server-temp821743299918408199").write_text("")
    assert set(host.look(account(host), time.time())) == {"silence"}


def test_an_upload_that_ends_during_a_look_is_no_alarm(host: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has another name by then; with a slow line there is always one."""
    repository = store(host, "2026-11", 1, 0)
    walk = os.walk

    def ended(top: Path) -> list[tuple[str, list[str], list[str]]]:
        """What was seen, and is gone."""
        half = repository / "data/aa" / f"{9:064x}.rest-server-temp17"
        half.write_text("half")
        seen = list(walk(top))
        half.unlink()
        return seen

    monkeypatch.setattr(host.os, "walk", ended)
    assert host.look(account(host), time.time()) == {}
    assert host.as_of(repository, time.time(), tmp_path / "then") == 4


def test_two_runs_do_not_look_at_once(host: ModuleType) -> None:
    """The second waits for the first; what each writes down, the other one has read. Control: it goes on when the first has ended."""
    host.CONFIG.write_text("[]")
    places = f"k.LEDGERS, k.STORE, k.CONFIG = (k.Path(path) for path in {[str(host.LEDGERS), str(host.STORE), str(host.CONFIG)]})"
    words = [sys.executable, "-B", "-c", f"import keeper as k\n{places}\nk.PRACTICE = '/nowhere'\nraise SystemExit(k.main())"]
    first = os.open(host.LEDGERS, os.O_RDONLY)
    fcntl.flock(first, fcntl.LOCK_EX)
    with subprocess.Popen(words, cwd=ROOT / "files/vault") as second:
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1)
        os.close(first)
        assert second.wait(10) == 0


CALLED_WRONGLY = {
    "--confirm hadad": f"no account is called hadad; there are: {ACCOUNT}, benali",
    "--as-of hadad 2026-11 2026-11-20": f"no account is called hadad; there are: {ACCOUNT}, benali",
    f"--as-of {ACCOUNT} 2026-21 2026-11-20": f"{ACCOUNT} has no repository 2026-21; there are: 2026-11",
    "--as-of benali 2026-11 2026-11-20": "benali has no repository 2026-11; there are: none",
    f"--as-of {ACCOUNT} 2026-11 yesterday": "Invalid isoformat string: 'yesterday'",
    f"--as-of {ACCOUNT} 2026-11 2100-01-01": " UTC has not come yet",
    f"--as-of {ACCOUNT} 2026-11 2001-01-01": "no snapshot had arrived in 2026-11 by ",
}


@pytest.mark.parametrize("words", CALLED_WRONGLY)
def test_a_name_that_is_none_is_refused(
    host: ModuleType, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the names that there are, before anything is looked at or made; so is a time from which nothing could come back."""
    agreed = {"keep_days": 35, "quota": 1 << 30, "silence_hours": 2}
    host.CONFIG.write_text(json.dumps([agreed | {"name": name} for name in (ACCOUNT, "benali")]))
    store(host, "2026-11", 3, 2)
    monkeypatch.setattr("sys.argv", ["keeper.py", *words.split()])
    with pytest.raises(SystemExit) as refused:
        host.main()
    assert (refused.value.code, CALLED_WRONGLY[words] in capsys.readouterr().err) == (2, True)
    assert [str(path) for path in (*host.LEDGERS.iterdir(), *host.STORE.rglob("*as-of-*"))] == []
    monkeypatch.setattr("sys.argv", ["keeper.py", "--as-of", ACCOUNT, "2026-11", time.strftime("%Y-%m-%d %H:%M")])
    assert host.main() == 0
    assert capsys.readouterr().out.startswith("4 files"), "control: the right names"
