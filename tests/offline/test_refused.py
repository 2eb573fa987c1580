"""What the off-site host's keeper makes of what was asked and refused; a real server is asked in tests/contract/test_ransomware.py."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import ModuleType

import pytest

from tests.offline.test_keeper import DAY, HOUR, account, store
from tests.restserver import ACCOUNT, keeper

BASE = f"/{ACCOUNT}/2026-11"
OLD, NEW, NONE = (f"{number:064x}" for number in (0, 1, 2))
WRONG = f"Invalid htpasswd entry for {ACCOUNT}.\n"


@pytest.fixture
def host(tmp_path: Path) -> ModuleType:
    """With a repository that is old enough to go, and the present one: of its two snapshots one is of just now."""
    host = keeper(tmp_path)
    store(host, "2026-09", 90, 60), store(host, "2026-11", 60, 0)
    return host


def asked(host: ModuleType, method: str, path: str, status: int, ago: float = 0, agent: str = "") -> None:
    """A line as rest-server 0.13 writes it."""
    at = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(time.time() - ago))
    with (host.STORE.parent / "log").open("a") as log:
        log.write(f'203.0.113.9 - - [{at}] "{method} {path} HTTP/2.0" {status} 10 "" "{agent}"\n')


def guesses(host: ModuleType, number: int) -> None:
    """Wrong passwords of the account, just now."""
    with (host.STORE.parent / "said").open("a") as said:
        said.write(WRONG * number)


def looked(host: ModuleType, later: float = 0, confirmed: bool = False) -> dict[str, str]:
    """What a look finds that looks wrong; nobody has sent anything meanwhile, which is not asked here."""
    return host.look(account(host, silence_hours=1000), time.time() + later, confirmed)


ATTACKS = [
    ("DELETE", f"{BASE}/snapshots/{OLD}", 403),
    ("DELETE", f"{BASE}/data/aa{OLD[2:]}", 403),
    ("DELETE", f"{BASE}/config", 403),
    ("POST", f"{BASE}/snapshots/{OLD}", 403),
    ("DELETE", f"{BASE}/snapshots/{OLD}?x=1", 403),
    ("DELETE", f"{BASE}/snapshots/{OLD}%00", 404),
    ("DELETE", f"{BASE}/", 405),
    ("PUT", f"{BASE}/snapshots/{OLD}", 405),
    ("MOVE", f"{BASE}/snapshots/{NEW}", 405),
    ("DELETE", f"{BASE}/snapshots/{OLD}?{'x' * 200_000}", 403),
]
ORDINARY = [
    ("DELETE", f"{BASE}/data/{'0' * 64}", 403),  # the weekly question of practice/courier.py
    ("DELETE", f"{BASE}/locks/{OLD}", 200),
    ("DELETE", f"{BASE}/locks/{OLD}", 404),
    ("DELETE", f"{BASE}/locks/{OLD}", 403),
    ("POST", f"{BASE}/snapshots/{NEW}", 403),  # restic sends again what it got no answer to, and first wants the rest of it removed
    ("DELETE", f"{BASE}/snapshots/{NEW}", 403),
    ("DELETE", f"{BASE}/data/{NONE}", 403),
    ("POST", f"{BASE}/data/{NONE}", 400),
    ("POST", f"{BASE}/data/{NONE}", 507),
    ("HEAD", f"{BASE}/config", 404),
    ("GET", f"{BASE}/../x", 405),
    # A stranger: without a password, or nobody knows.
    ("DELETE", f"{BASE}/snapshots/{OLD}", 401),
    ("PUT", f"{BASE}/config", 401),
    ("DELETE", f"{BASE}/../config", 301),
    ("DELETE", f"{BASE}/config?{'x' * 200_000}", 401),
]


def arranged(host: ModuleType) -> None:
    """Names as rest-server gives them to data, and the configuration."""
    repository = host.repositories(ACCOUNT) / "2026-11"
    for file in (repository / f"data/aa/aa{OLD[2:]}", repository / "config"):
        file.write_text("x" * 1000)
        os.utime(file, (time.time() - 60 * DAY,) * 2)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: f"{attack[0]} {attack[2]}")
def test_what_would_remove_or_overwrite_is_noticed(host: ModuleType, attack: tuple[str, str, int]) -> None:
    """Each by itself, once; nothing goes until a person has confirmed it, however long ago it was."""
    arranged(host)
    asked(host, *attack)
    for later in (0, 2 * DAY, 3 * DAY):
        assert set(looked(host, later)) == {"refused"}
    assert (host.repositories(ACCOUNT) / "2026-09").exists()
    assert looked(host, 3 * DAY, confirmed=True) == {}
    assert not (host.repositories(ACCOUNT) / "2026-09").exists()
    assert looked(host, 3 * DAY) == {}


@pytest.mark.parametrize("request_", ORDINARY, ids=lambda request: f"{request[0]} {request[2]}")
def test_what_a_practice_or_a_stranger_does_is_not(host: ModuleType, request_: tuple[str, str, int]) -> None:
    """However often."""
    arranged(host)
    for _ in range(100):
        asked(host, *request_)
    assert looked(host) == {}


def test_what_comes_after_a_person_has_looked_is_told(host: ModuleType) -> None:
    """And counted by itself; until then it is counted together."""
    for _ in range(3):
        asked(host, *ATTACKS[0], ago=60)
    assert looked(host)["refused"].startswith("3 times since ")
    asked(host, *ATTACKS[0], ago=30)
    assert looked(host)["refused"].startswith("4 times since ")
    assert looked(host, confirmed=True) == {}
    asked(host, *ATTACKS[0])
    assert looked(host)["refused"].startswith("Once, ")


def test_nobody_writes_another_ones_line(host: ModuleType) -> None:
    """What is in quotes has its quotes escaped by the server; control: without that it would be one."""
    forged = f'203.0.113.9 - - [30/Nov/2026:13:56:21 +0000] "DELETE {BASE}/ HTTP/1.1" 405 10 ""'
    asked(host, "GET", f"{BASE}/{forged}".replace('"', '\\"').replace(" ", "%20"), 401, agent=forged.replace('"', '\\"'))
    assert looked(host) == {}
    with (host.STORE.parent / "log").open("a") as log:
        log.write(f"{forged}\n")
    assert set(looked(host)) == {"refused"}


def test_guessed_passwords_are_told_and_keep_nothing_from_going(host: ModuleType) -> None:
    """Whoever knows none could fill the disk otherwise; and it passes within a day."""
    guesses(host, 20)
    asked(host, "GET", f"{BASE}/config", 401)
    assert looked(host) == {}, "control: so many may be mistyped"
    old = store(host, "2026-09", 90, 60)
    guesses(host, 1)
    assert set(looked(host)) == {"guessed"}
    assert not old.exists()
    assert set(looked(host, 0.9 * DAY)) == {"guessed"}
    assert looked(host, 1.1 * DAY) == {}
    assert [line for line in told(host) if "guessed" in line][-1] == f"alarm clear vault:{ACCOUNT}-guessed"


def test_guesses_that_are_read_again_are_not_counted_again(host: ModuleType) -> None:
    """As after a look that heard nothing."""
    works = Path(host.JOURNALCTL).read_text()
    guesses(host, 20)
    for journal, wrong in ((works, set()), ("#!/bin/sh\nexit 1\n", {"deaf"}), (works, set())):
        Path(host.JOURNALCTL).write_text(journal)
        assert set(looked(host)) == wrong
    guesses(host, 1)
    assert set(looked(host)) == {"guessed"}


def test_a_scanner_is_no_guesser(host: ModuleType) -> None:
    """It has no password and no account; a thousand requests an hour are nobody's alarm."""
    for number in range(1000):
        asked(host, "GET", f"/wp-admin/{number}", 401)
    assert looked(host) == {}


def test_so_many_requests_that_others_may_be_lost_are_told(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one look to the next; an ordinary hour afterwards does not end it before the day is over."""
    monkeypatch.setattr("judging.CROWD", 50)
    for _ in range(51):
        asked(host, "GET", f"{BASE}/config", 200)
    assert set(looked(host)) == {"crowded"}
    assert set(looked(host, HOUR)) == {"crowded"}
    assert looked(host, 1.1 * DAY) == {}


def test_a_host_that_hears_nothing_says_so(host: ModuleType) -> None:
    """And removes nothing; once it hears again, it hears all that was said meanwhile, and tells of nothing that a person has confirmed."""
    works = Path(host.JOURNALCTL).read_text()
    asked(host, *ATTACKS[0], ago=60)
    for broken in ("#!/bin/sh\nexit 1\n", "#!/bin/sh\necho no entry\n"):
        Path(host.JOURNALCTL).write_text(broken)
        assert set(looked(host)) == {"deaf"}
    assert (host.repositories(ACCOUNT) / "2026-09").exists()
    Path(host.JOURNALCTL).write_text(works)
    assert set(looked(host)) == {"refused"}
    Path(host.JOURNALCTL).write_text(broken)
    assert set(looked(host)) == {"deaf", "refused"}
    Path(host.JOURNALCTL).write_text(works)
    assert looked(host)["refused"].startswith("Once, "), "it was counted again"
    assert looked(host, confirmed=True) == {}
    Path(host.JOURNALCTL).write_text(broken)
    assert set(looked(host)) == {"deaf"}
    Path(host.JOURNALCTL).write_text(works)
    assert looked(host) == {}
    Path(host.JOURNALCTL).write_text(broken)
    assert set(looked(host)) == {"deaf"}
    Path(host.JOURNALCTL).write_text(works)
    asked(host, *ATTACKS[0])
    assert looked(host)["refused"].startswith("Once, ")


@pytest.mark.parametrize(
    ("kind", "what", "size"), [("keys", "keys", 450), ("snapshots", "junk", 14), ("index", "junk", 63), ("data", "junk", 9)]
)
def test_what_a_practice_never_sends_is_told(host: ModuleType, kind: str, what: str, size: int) -> None:
    """A second key, and what restic cannot have encrypted; a person confirms those, and no more of them. Control: one key, and 64 bytes."""
    directory = host.repositories(ACCOUNT) / "2026-11" / kind
    directory.mkdir(exist_ok=True)
    for number, length in enumerate((450, 64) if what == "junk" else (450,)):
        (directory / f"{number + 100:064x}").write_text("x" * length)
    assert looked(host) == {}
    store(host, "2026-09", 90, 60)
    (directory / f"{200:064x}").write_text("x" * size)
    for _ in range(2):
        assert set(looked(host)) == {what}
    assert (host.repositories(ACCOUNT) / "2026-09").exists()
    assert looked(host, confirmed=True) == {}
    assert not (host.repositories(ACCOUNT) / "2026-09").exists()
    (directory / f"{201:064x}").write_text("x" * size)
    assert set(looked(host)) == {what}


def test_a_name_that_a_client_has_chosen_says_nothing_to_people(host: ModuleType) -> None:
    """Neither to their terminal, nor more than a name; and it keeps nothing from being looked at. Control: an ordinary one is as it is."""
    for name in ("2026-10", os.fsdecode(b"x\x1b[2J\xff. " + b"All is well. " * 10)):
        junk = store(host, name, 0) / "keys"
        junk.mkdir()
        for number in range(2):
            (junk / f"{number:064x}").write_text("x" * 450)
    said = looked(host)["keys"]
    assert "Repository 2026-10 has 2 keys" in said
    assert "Repository 'x\\x1b[2J\\udcff. All is well. All is well. All is' has 2 keys" in said
    assert looked(host, confirmed=True) == {}


def told(host: ModuleType) -> list[str]:
    """What people were told."""
    return (host.STORE.parent / "told").read_text().splitlines()


# As a power cut, a full disk or another hand leave it.
BROKEN = ["", '{"since": 17', "[]", '{"since": "x"}', '{"confirmed": []}', "\0" * 100]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_ledger_is_an_alarm_of_that_account(host: ModuleType, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed there, the others are looked at; when a person has confirmed, a new one is begun, and what is over is cleared."""
    agreed = {"keep_days": 35, "quota": 1 << 30, "silence_hours": 1000}
    host.CONFIG.write_text(json.dumps([agreed | {"name": name} for name in (ACCOUNT, "benali")]))
    works = Path(host.JOURNALCTL).read_text()
    Path(host.JOURNALCTL).write_text(f'#!/bin/sh\ncase "$*" in *benali*) ;; *) exec {host.STORE.parent}/heard "$@" ;; esac\n')
    heard = host.STORE.parent / "heard"
    heard.write_text(works)
    heard.chmod(0o755)
    ledger, old = host.LEDGERS / f"{ACCOUNT}.json", host.repositories(ACCOUNT) / "2026-09"
    ledger.write_text(text)
    monkeypatch.setattr("sys.argv", ["keeper.py"])
    for _ in range(2):
        assert host.main() == 3
    assert f"alarm raise vault:{ACCOUNT}-ledger" in told(host)
    assert (ledger.read_text(), old.exists()) == (text, True)
    assert json.loads((host.LEDGERS / "benali.json").read_text())["wrong"] == {}
    (host.STORE.parent / "told").unlink()
    monkeypatch.setattr("sys.argv", ["keeper.py", "--confirm", ACCOUNT])
    assert host.main() == 0
    assert {f"alarm clear vault:{ACCOUNT}-{kind}" for kind in ("ledger", "silence", "refused")} <= set(told(host))
    assert not old.exists()


def test_an_account_that_cannot_be_looked_at_keeps_nobody_from_the_others(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is an alarm of its own, which goes when it can."""
    agreed = {"keep_days": 35, "quota": 1 << 30, "silence_hours": 1000}
    host.CONFIG.write_text(json.dumps([agreed | {"name": name} for name in ("benali", ACCOUNT)]))
    read = host.read

    def unreadable(directory: Path) -> list[object]:
        """A bad sector."""
        if directory.name == "benali":
            raise OSError(5, "Input/output error")
        return read(directory)

    Path(host.JOURNALCTL).write_text("#!/bin/sh\n")
    monkeypatch.setattr("sys.argv", ["keeper.py"])
    with monkeypatch.context() as patch:
        patch.setattr(host, "read", unreadable)
        assert host.main() == 3
    assert "alarm raise vault:benali-unseen" in told(host)
    assert json.loads((host.LEDGERS / f"{ACCOUNT}.json").read_text())["removed"] == ["2026-09"]
    assert host.main() == 0
    assert "alarm clear vault:benali-unseen" in told(host)


def test_a_ledger_reaches_the_disk_before_it_takes_its_place(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the power goes, and an empty one is there."""
    order: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(host.os, "fsync", lambda number: order.append(f"sync {os.fstat(number).st_size}") or sync(number))
    monkeypatch.setattr(Path, "rename", lambda self, to: order.append(f"rename {self.name}") or rename(self, to))
    host.write(host.LEDGERS / f"{ACCOUNT}.json", "seven..")
    assert order == ["sync 7", f"rename {ACCOUNT}.new"]


def test_a_look_that_has_ended_is_a_sign_of_life(host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when something looks wrong; what notices its silence waits for the same."""
    host.CONFIG.write_text("[]")
    monkeypatch.setattr("sys.argv", ["keeper.py"])
    assert host.main() == 0
    assert (told(host)[-1].strip(), (host.LEDGERS / "looked").exists()) == ("alarm alive", True)
