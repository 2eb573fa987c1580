"""A repository as it was at a moment: what the keeper serves of it, without a host; contract/test_as_of asks rest-server for it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.offline.test_keeper import DAY, account, restarts, store
from tests.restserver import ACCOUNT, keeper


@pytest.fixture
def host(tmp_path: Path) -> ModuleType:
    """The module, with its store in a directory of the test's own."""
    return keeper(tmp_path)


def test_as_of_of_a_repository_into_which_another_was_put(host: ModuleType, tmp_path: Path) -> None:
    """As rest-server lets a client do; that must not keep anybody from coming back."""
    repository = store(host, "2026-11", 3, 2)
    store(host, "2026-11/x/y", 3)
    assert host.as_of(repository, time.time(), tmp_path / "then") == 4 + 3
    assert (tmp_path / "then/snapshots" / f"{1:064x}").exists()


def test_as_of_leaves_out_what_came_later(host: ModuleType, tmp_path: Path) -> None:
    """What had arrived by then, neither locks nor half uploads; the same files, not copies."""
    repository = store(host, "2026-11", 3, 2, 1)
    (repository / "config").write_text("config")
    os.utime(repository / "config", (time.time() - 4 * DAY,) * 2)
    half = repository / "data/aa/half"
    half.write_text("half")
    os.utime(half, (time.time() - 3 * DAY,) * 2)
    assert host.as_of(repository, time.time() - 1.5 * DAY, tmp_path / "then") == 5
    found = sorted(str(path.relative_to(tmp_path / "then")) for path in (tmp_path / "then").rglob("*") if path.is_file())
    assert found == ["config", *(f"{kind}/{number:064x}" for kind in ("data/aa", "snapshots") for number in (0, 1))]
    assert (tmp_path / "then/config").samefile(repository / "config")


def served(host: ModuleType, generation: str, ago: float) -> Path:
    """Where the repository as it was so many days ago is served; the keeper has made it now."""
    return host.repositories(ACCOUNT) / host.shown(ACCOUNT, generation, int(time.time() - ago * DAY)).name


def names(path: Path) -> list[str]:
    """All that lies there."""
    return sorted(os.listdir(path))


def test_a_repository_as_it_was_is_served_and_can_only_be_read(host: ModuleType) -> None:
    """By whoever serves the account, as its group; half a one is made anew; what is there stays, and is found again."""
    store(host, "2026-11", 3, 2, 1)
    until, place = int(time.time() - 1.5 * DAY), host.views(ACCOUNT)
    (place / ".new/data").mkdir(parents=True)
    name = host.shown(ACCOUNT, "2026-11", until).name
    link = host.repositories(ACCOUNT) / name
    assert (name, names(place)) == (time.strftime("2026-11.as-of-%Y%m%dT%H%M%SZ", time.gmtime(until)), [name])
    assert names(link / "snapshots") == [f"{number:064x}" for number in (0, 1)]
    group = host.repositories(ACCOUNT).stat().st_gid
    modes = {path: (path.stat().st_mode & 0o7777, path.stat().st_gid) for path in [place, *place.rglob("*")] if path.is_dir()}
    assert set(modes.values()) == {(0o750, group)} and len(modes) == 8, modes
    assert place.parent.stat().st_mode & 0o7777 == 0o711
    made = (place / name).stat().st_ino
    link.unlink()
    assert (host.shown(ACCOUNT, "2026-11", until).name, link.is_symlink(), (place / name).stat().st_ino) == (name, True, made)


def test_what_is_served_as_it_was_is_nothing_that_the_practice_sent(host: ModuleType) -> None:
    """The keeper says the same with it and without; but a client gains nothing by such a name, which counts as any other."""
    store(host, "2026-09", 60, 50, 40)
    store(host, "2026-11", *(39 - step / 2 for step in range(79)))
    before = host.read(host.repositories(ACCOUNT))
    for ago in (45, 20, 1):
        assert served(host, "2026-09" if ago > 39 else "2026-11", ago).is_symlink()
    assert host.read(host.repositories(ACCOUNT)) == before
    assert host.look(account(host), time.time()) == {}
    store(host, "2026-11.as-of-20260101T000000Z", *(1 / (2 + step) for step in range(host.FLOOD_PER_DAY + 1)))
    assert "flood" in host.look(account(host), time.time())


def test_what_is_served_as_it_was_goes_after_the_days_to_keep(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from when it was made; not while anything looks wrong; and cut off in between, with the next look."""
    repository, done = store(host, "2026-11", 40, 0.2), host.remove
    view = served(host, "2026-11", 1)
    made, now = view.resolve(), time.time()

    def made_ago(days: float) -> None:
        os.utime(made, (now - days * DAY,) * 2)

    def power_cut(_: Path) -> None:
        raise KeyboardInterrupt

    made_ago(36)
    assert set(host.look(account(host), now)) == {"silence"} and view.is_dir()
    made_ago(34)
    store(host, "2026-11", 40, 0.2, 0)
    assert host.look(account(host), now) == {} and view.is_dir()
    made_ago(36)
    with monkeypatch.context() as patch:
        patch.setattr(host, "remove", power_cut)
        with pytest.raises(KeyboardInterrupt):
            host.look(account(host), now)
    assert (view.is_symlink(), made.exists(), host.remove) == (False, True, done)
    assert host.look(account(host), now) == {}
    assert (made.exists(), len(names(repository / "snapshots")), restarts(host)) == (False, 3, [])


def test_a_client_can_take_a_name_but_not_stand_in_for_what_was(host: ModuleType) -> None:
    """Somebody who guesses the second gets no more than an error out of it, and another second is as good."""
    store(host, "2026-11", 3, 2, 1)
    until = int(time.time() - 1.5 * DAY)
    squat = host.repositories(ACCOUNT) / time.strftime("2026-11.as-of-%Y%m%dT%H%M%SZ", time.gmtime(until))
    squat.mkdir()
    with pytest.raises(ValueError, match="a client has taken the name"):
        host.shown(ACCOUNT, "2026-11", until)
    assert len(host.shown(ACCOUNT, "2026-11", until + 1).snapshots) == 2
