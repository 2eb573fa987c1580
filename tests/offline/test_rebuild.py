"""Which copy a new server takes, and whose its documents become."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from kit import restore
from kit.cli import cli
from kit.connection import Connection
from practice import courier, fetch, fetch_media, owners, rebuild
from practice.engine import Missing, Snapshot, WrongPassword
from practice.server import Trouble

# 2026-01-02, so that the month before lies in another year.
NOW = 1767312000.0


def sent(at: float, name: str = "") -> list[Snapshot]:
    """A whole set, as courier.copies makes it."""
    kinds = ("database",), ("changes", f"with:database{name}{at:.0f}"[:13]), ("documents",), ("configuration",)
    return [Snapshot(f"{tags[0]}{name}{at:.0f}", at, tags) for tags in kinds]


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What lies at the host, by name: snapshots, or the trouble with it."""
    there: dict[str, Any] = {}

    class Repository:
        def __init__(self, name: str) -> None:
            self.name = name

        def snapshots(self) -> list[Snapshot]:
            found = there.get(self.name, Missing("none"))
            if isinstance(found, Trouble):
                raise found
            return found

    monkeypatch.setattr(fetch, "opened", Repository)
    monkeypatch.setattr(fetch, "reached", lambda: None)
    monkeypatch.setattr(fetch.time, "time", lambda: NOW)
    return there


def test_the_newest_whole_set_counts(outside: dict[str, Any]) -> None:
    """Not half a one; not a new month's while the old one is newer; changes without their backups are passed over."""
    outside["2025-11"] = sent(1)
    outside["2025-12"] = WrongPassword("a stranger's")
    outside["2025-12-2"] = sent(20)
    outside["2026-01"] = sent(10)[:3]
    assert fetch.newest()["generation"] == "2025-12-2"
    outside["2026-01"] = sent(10)
    assert (fetch.newest()["generation"], fetch.newest()["at"]) == ("2025-12-2", 20)
    outside["2026-01"] = [*sent(30), Snapshot("changes40", 40, ("changes", "with:nothing"))]
    chosen = fetch.newest()
    assert (chosen["generation"], chosen["at"], chosen["snapshots"]["changes"]) == ("2026-01", 30, "changes30")


def test_what_a_clock_that_was_ahead_has_sent_is_not_the_newest(outside: dict[str, Any]) -> None:
    """Neither in its repository nor of all; that it was passed over is said. It counts a little ahead, or where there is no other."""
    ahead, year = NOW + 3000, NOW + 365 * 86400
    outside |= {"2025-12": sent(20), "2026-01": [*sent(30), *sent(year)]}
    chosen = fetch.newest()
    assert (chosen["at"], chosen["snapshots"]["documents"]) == (30, "documents30")
    assert "it may be newer: what says that it was made at 2027-01-0" in rebuild.moment(chosen)
    outside["2026-01"] = sent(year)
    assert fetch.newest()["at"] == 20, "of another repository"
    outside["2026-01"] = [*sent(30), *sent(ahead)]
    assert (fetch.newest()["at"], "NOT TAKEN" in rebuild.moment(fetch.newest())) == (ahead, False)
    del outside["2025-12"]
    outside["2026-01"] = [*sent(30)[1:], *sent(year)]
    assert fetch.newest()["at"] == year, "no other one is whole"


def test_what_cannot_be_read_and_may_be_newer_is_not_passed_over_in_silence(outside: dict[str, Any]) -> None:
    """A stranger's blocks nothing, and is named; what broke may be the practice's own: it is newer only by a person's word."""
    outside |= {"2025-12": WrongPassword("older"), "2025-12-2": sent(20), "2026-01-2": WrongPassword("newer")}
    chosen = fetch.newest()
    (said,) = chosen["unread"]
    assert chosen["at"] == 20 and said.startswith("2026-01-2: ") and "--repository 2026-01-2" in said
    assert f"NOT TAKEN, and it may be newer: {said}." in rebuild.moment(chosen)
    outside["2026-01"] = Trouble("damaged")
    with pytest.raises(Trouble, match="2026-01, which is newer than 2025-12-2: damaged.* --repository 2025-12-2"):
        fetch.newest()
    chosen = fetch.newest_in("2025-12-2")
    assert chosen["at"] == 20 and "NOT TAKEN" not in rebuild.moment(chosen), "a person has said so"
    outside |= {"2026-01": sent(30), "2025-12-2": Trouble("damaged"), "2026-01-2": Missing("none")}
    assert (fetch.newest()["at"], fetch.newest()["unread"]) == (30, ["2025-12-2: damaged"]), "the month before may still be written to"


def test_of_several_media_the_newest_counts_and_one_that_broke_is_pulled_out_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may be the newest. Another practice's is named, and blocks nothing."""
    there: dict[str, Any] = {"monday": sent(10), "tuesday": sent(20), "friday": []}

    @contextmanager
    def reading(path: str) -> Iterator[Any]:
        if isinstance(there[path], Trouble):
            raise there[path]
        yield SimpleNamespace(snapshots=lambda: there[path])

    monkeypatch.setattr(fetch_media, "plugged_in", lambda: {day: f"the medium of {day}" for day in there})
    monkeypatch.setattr(fetch_media, "run", lambda *_: "uuid")
    monkeypatch.setattr(fetch_media.medium, "reading", reading)
    monkeypatch.setattr(fetch_media.medium, "PASSWORD", tmp_path)
    chosen = fetch_media.newest()
    assert (chosen["generation"], chosen["unread"]) == ("the medium of tuesday", [])
    for strange in (Trouble("cryptsetup: No key available with this passphrase."), WrongPassword("restic: no key")):
        there["friday"] = strange
        chosen = fetch_media.newest()
        assert chosen["at"] == 20 and "newer: the medium of friday: the password does not open it" in rebuild.moment(chosen)
    there["tuesday"] = Trouble("Input/output error")
    with pytest.raises(Trouble, match="^the medium of tuesday: Input/output error. It may be the newest: .* pull it out"):
        fetch_media.newest()
    del there["tuesday"]
    assert fetch_media.newest()["at"] == 10


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, "no repository of the last 24 months"),
        ({"2025-12": WrongPassword("no key")}, r"does not open what lies there \(2025-12\)"),
        ({"2025-12": Trouble("damaged")}, "2025-12: damaged"),
        ({"2025-12": sent(1)[1:]}, "no whole copy is there"),
    ],
)
def test_why_there_is_none_is_said(outside: dict[str, Any], there: dict[str, Any], said: str) -> None:
    """Another kit is told apart from a host that has nothing, or something broken."""
    outside.update(there)
    with pytest.raises(Trouble, match=said):
        fetch.newest()


def test_a_person_says_out_of_which_repository(outside: dict[str, Any]) -> None:
    """Out of that one alone, whatever newer ones hold and whatever is wrong with them; what is wrong with it is said."""
    name = "2025-12.as-of-20251220T080000Z"
    outside |= {"2026-01": sent(30), "2025-12": Trouble("damaged"), name: [*sent(10), *sent(20)]}
    chosen = fetch.newest_in(name)
    assert (chosen["generation"], chosen["at"], chosen["snapshots"]["changes"]) == (name, 20, "changes20")
    assert fetch.newest()["generation"] == "2026-01", "control: a drill takes the newest"
    for there, said in ((Missing(""), "has no repository"), (WrongPassword(""), "does not open"), (sent(1)[1:], "no whole copy is in")):
        outside[name] = there
        with pytest.raises(Trouble, match=f"{said}.* .*{name}"):
            fetch.newest_in(name)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the technician's machine does at a new server that does all it is told: log in, and tell it."""
    done: list[str] = []
    monkeypatch.setattr(Connection, "login", lambda _: done.append("login"))
    monkeypatch.setattr(restore, "asked", lambda *_: False)
    monkeypatch.setattr(restore, "prepared", lambda *_: None)
    monkeypatch.setattr(restore, "keys_put_back", lambda *_, **__: None)
    monkeypatch.setattr(restore, "told", lambda _, command: done.append(command) or ["true"])
    return done


@pytest.mark.parametrize(
    ("source", "name", "refused"),
    [
        ("offsite", "2026-11.as-of-20261120T080000Z", ""),
        ("offsite", "2026-11-2.as-of-20261120T080000Z", ""),
        ("offsite", "2026-11", ""),
        ("offsite", "2026-11/../other", "2026-11.as-of-20261120T080000Z"),
        ("offsite", "2026-11.as-of-20261120", "2026-11.as-of-20261120T080000Z"),
        ("offsite", "2026-11\n", "2026-11.as-of-20261120T080000Z"),
        ("media", "2026-11", "--from offsite"),
    ],
)
def test_the_name_of_a_repository_is_looked_at_before_any_server(source: str, name: str, refused: str, server: list[str]) -> None:
    """On the technician's machine, and again on the server; what passes goes to the server as it was typed."""
    said = CliRunner().invoke(cli, ["restore", "vagrant", "--from", source, "--repository", name])
    assert (said.exit_code, refused in said.output) == (2 if refused else 0, True), said.output
    assert list(dict.fromkeys(server)) == ([] if refused else ["login", f"practice rebuild --from offsite --repository {name}"])
    with pytest.raises(Trouble, match="is no repository outside" if refused else "no section offsite"):
        rebuild.rebuilt({}, source, name)


def test_the_backup_disk_is_taken_where_that_is_said_and_never_after_an_intruder(server: list[str]) -> None:
    """What is typed goes to the server; who had the server had that disk as well."""
    words = ["restore", "vagrant", "--backup-disk", "--from"]
    said = CliRunner().invoke(cli, [*words, "offsite", "--repository", "2026-11.as-of-20261120T080000Z"])
    assert said.exit_code == 2 and "before an intruder" in said.output and server == [], said.output
    said = CliRunner().invoke(cli, [*words, "media"])
    assert (said.exit_code, server[-1]) == (0, "practice rebuild --from media --backup-disk"), said.output
    said = CliRunner().invoke(cli, [*words, "offsite", "--repository", "2026-10"])
    assert (said.exit_code, server[-1]) == (0, "practice rebuild --from offsite --repository 2026-10 --backup-disk"), "a newer one broke"
    with pytest.raises(Trouble, match="without --backup-disk"):
        rebuild.rebuilt({}, "offsite", "2026-11.as-of-20261120T080000Z", disk=True)


def test_nothing_is_sent_from_half_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be the newest copy; control: without the note nothing keeps it back."""
    monkeypatch.setattr(courier, "REBUILD", tmp_path / "rebuild.json")
    courier.whole()
    (tmp_path / "rebuild.json").touch()
    with pytest.raises(Trouble, match="is being rebuilt"):
        courier.begun("2026-01")


def test_what_a_clock_that_was_ahead_has_sent_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, changed or not, as soon as the clock is right; control: then the changes alone."""
    monkeypatch.setattr(courier, "REPOSITORY", tmp_path)
    monkeypatch.setattr(courier, "DOCUMENTS", tmp_path)
    monkeypatch.setattr(courier, "CONFIGURATION", (tmp_path,))
    monkeypatch.setattr(courier, "SYSTEM", ())
    made: list[str] = []
    engine: Any = SimpleNamespace(
        back_up=lambda _, *tags: made.append(tags[0]) or tags[0], back_up_text=lambda *words: made.append(words[-1]) or words[-1]
    )
    sent: dict[str, Any] = {}
    everything = ["database", "changes", "documents", "configuration", "system"]
    for now, wanted in ((NOW + 365 * 86400, everything), (NOW, everything), (NOW + 900, ["changes"])):
        made.clear()
        sent |= dict(courier.copies(engine, sent, now))
        assert made == wanted


def test_an_owner_is_known_by_name(tmp_path: Path) -> None:
    """Whatever number it had; a number that was dealt with is not dealt with again; who is not here is named."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"{getpass.getuser()}:x:4711:4711::/:\ngone:x:4712:4711::/:\n")
    (tmp_path / "etc/group").write_text("nowhere:x:4711:\n")
    names = owners.Names(tmp_path)

    def here(user: int, group: int) -> tuple[int, int]:
        return names.here(os.stat_result((0, 0, 0, 0, user, group, 0, 0, 0, 0)))

    assert here(4711, 4711) == (4711, 4711), "it is the owner of here already"
    assert here(4711 | owners.MARK, 0) == (os.getuid(), 0) and not names.missing
    assert here(4712 | owners.MARK, 4711 | owners.MARK) == (0, 0)
    assert names.missing == {"account gone", "group nowhere"}
