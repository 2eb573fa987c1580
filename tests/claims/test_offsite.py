"""offsite: the copy leaves by itself, encrypted, to the right place alone, whole; and its absence is noticed."""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

from kit import post
from kit.clinic import Clinic
from kit.neighbour import ADDRESS, Neighbour
from practice.engine import Restic, Snapshot
from practice.outside import PLACE
from roles.backup import REPOSITORY
from roles.offsite import ACCOUNT, AUTHORITY, CONFIG, HOME, LOGIN, PASSWORD, SERVICE, SYSTEMD, WAY
from roles.recovery import CLINIC
from tests.ask import answers
from tests.claim import claim
from tests.claims.test_backup import alarms, archive_now, sql
from tests.intruder import Intruder
from tests.restserver import Server, in_the_network

STATE = f"{HOME}/state.json"
PATIENT = "Nadia Bouzid, hepatitis"


@pytest.fixture(scope="module")
def vault(
    pytestconfig: pytest.Config, host: Host, clinic: Clinic, inside: Neighbour, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """In the tests' LAN we keep the copy, for this run of the tests: what the server knows of an earlier one would be lost copies."""
    if clinic.offsite is None:
        pytest.fail("there is no copy outside: this practice's clinic file has no section offsite", pytrace=False)
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test is the off-site host itself: it runs on the VM alone. On this server: sudo practice offsite", pytrace=False)
    host.check_output(f"systemctl stop 'practice-offsite@*'; rm -rf {STATE} {HOME}/cache")
    login = clinic.offsite.password_file.read_text().strip()
    with in_the_network(inside, tmp_path_factory.mktemp("vault"), ADDRESS, clinic.offsite.port, clinic.offsite.account, login) as server:
        yield server


def run(host: Host, what: str = "send") -> dict:
    """Let the service run once, and say what it noted."""
    host.check_output(f"systemctl start practice-offsite@{what}.service")
    return json.loads(host.check_output(f"cat {STATE}"))


def sent(host: Host, what: str = "send") -> dict:
    """The same, when it must have succeeded."""
    state = run(host, what)
    assert what not in state.get("errors", {}), f"nothing was sent: {state['errors']}"
    return state


def kept(host: Host, vault: Server, state: dict) -> list[Snapshot]:
    """What lies there, as whoever holds the server's key sees it."""
    return opened(host, vault, state).snapshots()


def noted(host: Host, change: str) -> None:
    """Change what the server knows of what was sent."""
    program = f"import json; state = json.load(open('{STATE}')); {change}; json.dump(state, open('{STATE}', 'w'))"
    host.check_output(f"python3 -c {shlex.quote(program)}")


def opened(host: Host, vault: Server, state: dict) -> Restic:
    """The repository that counts, where it lies."""
    return vault.local(vault.store / state["generation"], host.check_output(f"cat {PASSWORD}").strip())


def sending_off(host: Host) -> None:
    host.check_output("systemctl stop practice-offsite-send.timer")


@claim("OFF-01", broken_by=sending_off, symptom="practice-offsite-send.timer")
def test_what_is_entered_leaves_by_itself(host: Host, vault: Server) -> None:
    """The timer waits for each quarter of an hour; what was archived before a run is there after it."""
    said = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersCalendar practice-offsite-send.timer")
    assert all(word in said for word in ("ActiveState=active", "UnitFileState=enabled", "/15:")), f"practice-offsite-send.timer: {said}"
    segment = archive_now(host)
    state = sent(host)
    names = opened(host, vault, state).listed(state["sent"]["changes"]["id"])
    assert [name for name in names if segment in name] != [], f"{segment} is not there"


def reader_blinded(host: Host) -> None:
    host.check_output(f"sed -i 's/^AmbientCapabilities=.*/AmbientCapabilities=/' {SYSTEMD}/{SERVICE} && systemctl daemon-reload")


@claim("OFF-02", broken_by=reader_blinded, symptom="nothing was sent")
def test_all_that_a_new_server_needs_is_there(host: Host, vault: Server, tmp_path: Path) -> None:
    """Restored from there alone: backups, changes, a document, configuration and secrets are as they are on the server; and the list."""
    host.check_output(f"echo {shlex.quote(PATIENT)} > /srv/probe && chmod 600 /srv/probe && touch /etc/cabinet/probe")
    try:
        state = sent(host)
        engine = opened(host, vault, state)
        copies = state["sent"]
        for kind in ("database", "changes", "documents", "configuration", "system"):
            engine.restore(copies[kind]["id"], tmp_path)
        where = f"/backup/pgbackrest/backup /srv/probe /var/lib/cabinet/secrets {CLINIC} {AUTHORITY}"
        there = host.check_output(f"find {where} -type f | xargs -d '\\n' sha256sum")
        wanted = dict(reversed(line.split("  ", 1)) for line in there.splitlines())
        bad = [path for path, digest in wanted.items() if digest_of(tmp_path / path.removeprefix("/")) != digest]
        assert bad == [], f"not there, or otherwise: {bad}"
        assert (tmp_path / "etc/cabinet/practice.json").exists() and "restic" in (tmp_path / "system.txt").read_text()
        assert "archive.info" in {path.name for path in (tmp_path / "backup/pgbackrest/archive").rglob("*")}
    finally:
        host.check_output("rm -f /srv/probe /etc/cabinet/probe")


def digest_of(path: Path) -> str:
    """Its SHA-256; of what is not there, nothing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def key_left_open(host: Host) -> None:
    host.check_output(f"chmod 644 {PASSWORD}")


@claim("OFF-03", broken_by=key_left_open, symptom="readable")
def test_who_keeps_it_can_read_nothing(host: Host, vault: Server) -> None:
    """The key is root's on the encrypted volume, and what lies there neither opens by what the keeper knows nor holds a readable word."""
    for path in (PASSWORD, LOGIN):
        assert host.check_output(f"stat -c '%a %U' {path}") == "600 root", f"{path} is readable for others"
    assert host.check_output(f"findmnt -no TARGET -T {PASSWORD}") != "/"
    host.check_output(f"echo {shlex.quote(PATIENT)} > /srv/probe")
    try:
        state = sent(host)
    finally:
        host.check_output("rm -f /srv/probe")
    assert kept(host, vault, state) != [], "control: the right key opens it"
    whole = b"".join(path.read_bytes() for path in (vault.store / state["generation"]).rglob("*") if path.is_file())
    assert [word for word in (b"Bouzid", b"backup.info", b"/srv") if word in whole] == []


@functools.cache
def forged() -> str:
    """Certificate and key of a stranger at the host's address."""
    return post.server_certificate(ADDRESS, trusted=False)


def stranger_believed(host: Host) -> None:
    certificate = forged()[forged().index("-----BEGIN CERTIFICATE") :]
    host.check_output(f"echo {shlex.quote(certificate)} >> {AUTHORITY}")


@claim("OFF-04", broken_by=stranger_believed, symptom="a stranger was asked for something")
def test_a_host_that_is_not_trusted_is_told_nothing(
    host: Host, clinic: Clinic, inside: Neighbour, vault: Server, tmp_path: Path
) -> None:
    """The right one is sent to. At the same address, with somebody else's certificate, nothing is asked for, and that is noted."""
    state = run(host)
    assert "send" not in state.get("errors", {}), f"the right one was not believed: {state['errors']}"
    where = (ADDRESS, clinic.offsite.port, clinic.offsite.account)
    with vault.away(), in_the_network(inside, tmp_path, *where, "x" * 20, certificate=forged()) as stranger:
        reason = run(host)["errors"]["send"]
        assert not stranger.log.exists() or "/config" not in stranger.log.read_text(), "a stranger was asked for something"
        assert "has not proved who it is" in reason, reason
    sent(host)


def door_left_ajar(host: Host) -> None:
    host.check_output(f"echo \"nft 'add element inet cabinet offsite4 {{ {ADDRESS} . 4711 }}'\" >> {WAY}")


@claim("OFF-05", broken_by=door_left_ajar, symptom="@4711")
def test_nobody_else_gets_out_this_way(host: Host, clinic: Clinic, inside: Neighbour, vault: Server) -> None:
    """The account reaches the clinic's host at its port and nothing else; everybody else reaches nothing."""
    with vault.away(), inside.listening(clinic.offsite.port), inside.listening(4711):
        host.check_output(WAY)
        places = [f"tcp@{ADDRESS}@{port}" for port in (clinic.offsite.port, 4711)]
        control, *tried = [f"{user}@{place}" for user in (ACCOUNT, "root", "nobody", "cabinet-alarm") for place in places]
        heard = answers(lambda words: host.check_output(shlex.join(words)), control, *tried)
    assert heard == [f"{ACCOUNT}@{places[0]}"], f"got out: {heard}"


def never_too_old(host: Host) -> None:
    host.check_output(f"sed -i 's/\"max_age_minutes\": [0-9]*/\"max_age_minutes\": 99999999/' {CONFIG}")


@claim("OFF-06", broken_by=never_too_old, symptom="no alarm")
def test_a_copy_that_is_too_old_is_noticed(host: Host, clinic: Clinic, vault: Server) -> None:
    """One minute too old is an alarm at the next look, and none when it is sent again."""
    sent(host)
    older = (clinic.offsite.max_age_minutes + 1) * 60
    noted(host, f"[copy.update(at=copy['at'] - {older}) for copy in state['sent'].values()]")
    host.check_output("systemctl restart practice-watch.service")
    try:
        assert "offsite" in alarms(host), "no alarm although the copy is too old"
    finally:
        sent(host)
        host.check_output("systemctl restart practice-watch.service")
    assert "offsite" not in alarms(host), "the alarm stays although it was sent"


def never_anew(host: Host) -> None:
    host.check_output("systemctl stop practice-offsite-renew.timer")


@claim("OFF-07", broken_by=never_anew, symptom="practice-offsite-renew.timer")
def test_each_month_begins_anew_and_what_lies_there_is_read(host: Host, vault: Server) -> None:
    """Both timers wait. In a new month everything is sent to a new repository; a repository that is damaged is found."""
    timers = ("practice-offsite-renew.timer", "practice-offsite-verify.timer")
    wanted = {"Persistent=yes", "ActiveState=active", "UnitFileState=enabled"}
    said = {timer: host.check_output(f"systemctl show -p ActiveState,UnitFileState,Persistent {timer}") for timer in timers}
    assert [timer for timer, words in said.items() if set(words.split()) != wanted] == []
    month = sent(host)["generation"]
    noted(host, "state.update(generation='2000-01')")
    assert sent(host, "renew")["generation"] == month
    sql(host, "SELECT 1")  # the practice went on meanwhile
    sent(host, "verify")
    (index, *_) = (vault.store / month / "index").iterdir()
    whole = index.read_bytes()
    index.chmod(0o600)
    index.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    try:
        assert "verify" in run(host, "verify")["errors"], "damage was not found"
    finally:
        index.write_bytes(whole)
    sent(host, "verify")


def quarters_without_a_drill(host: Host) -> None:
    host.check_output("systemctl stop practice-offsite-drill.timer")


@claim("OFF-08", broken_by=quarters_without_a_drill, symptom="practice-offsite-drill.timer")
def test_what_lies_outside_is_restored_on_trial_each_quarter(host: Host, vault: Server) -> None:
    """The timer waits for the quarter's Sunday; what it starts fetches, restores, compares, keeps what came of it, and leaves nothing."""
    timer, service = "practice-offsite-drill.timer", "practice-offsite-drill.service"
    said = host.check_output(f"systemctl show -p ActiveState,UnitFileState,TimersCalendar,Persistent {timer}")
    wanted = ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=Sun *-01,04,07,10-", "Persistent=yes")
    assert [word for word in wanted if word not in said] == [], f"{timer}: {said}"
    host.check_output("echo letter > /srv/probe")
    try:
        sent(host)
        before = json.loads(host.check_output("practice drill --history --json"))
        # What the timer of each quarter of an hour does, sooner: once what the drill enters is on the backup disk, until it fetches.
        entered = f"[ -n \"$(find {REPOSITORY}/archive -type f -newer /run/probe)\" ]"
        host.check_output(
            f"touch /run/probe; systemctl start {service} & drill=$!; works='kill -0 '$drill\n"
            f"until {entered} || ! $works; do sleep 1; done\n"
            f"until sleep 1; [ -e {PLACE} ] || ! $works; do systemctl start practice-offsite@send.service; done; wait $drill || true"
        )
        (drill,) = [one for one in json.loads(host.check_output("practice drill --history --json")) if one not in before]
        assert drill["ok"] and drill["from"] == "offsite", f"what lies outside was not proved: {drill}"
        assert drill["files"] > 0 < drill["tables"] and 0 < drill["age_seconds"] < 900, drill
        assert host.run(f"test -e {PLACE} || test -e /var/lib/postgresql/scratch").rc == 1, "something was left behind"
    finally:
        host.check_output("rm -f /srv/probe /run/probe")


def never_read(host: Host) -> None:
    host.check_output("systemctl stop practice-offsite-verify.timer")


@claim("OFF-09", broken_by=never_read, symptom="practice-offsite-verify.timer")
def test_nothing_there_can_be_destroyed_from_here(host: Host, clinic: Clinic, inside: Neighbour, vault: Server, tmp_path: Path) -> None:
    """By root with all that lies on the server; every file stays as it was. A place that would allow it is an alarm, asked each week."""
    assert host.check_output("systemctl show -P ActiveState practice-offsite-verify.timer") == "active", "practice-offsite-verify.timer"
    generation = sent(host)["generation"]
    shutil.copytree(vault.store.parents[1], tmp_path / "vault")
    whole = digests(vault)
    attacked(host, vault, generation)
    assert [path for path, digest in digests(vault).items() if whole.get(path, digest) != digest] == [], "written over"
    assert whole.keys() - digests(vault).keys() == set(), "removed"
    where = (ADDRESS, clinic.offsite.port, clinic.offsite.account, vault.login)
    with vault.away(), in_the_network(inside, tmp_path, *where, append_only=False) as careless:
        run(host, "verify")
        host.check_output("systemctl restart practice-watch.service")
        assert "offsite-removable" in alarms(host), "no alarm although things could be removed"
        attacked(host, careless, generation)
        assert whole.keys() - digests(careless).keys() != set(), "control: there the same attack removes nothing"
    sent(host, "verify")
    host.check_output("systemctl restart practice-watch.service")
    assert "offsite-removable" not in alarms(host), "the alarm stays although nothing can be removed"


def digests(vault: Server) -> dict[str, str]:
    """Every file that lies there, but for locks, which everybody who reads makes and takes away."""
    files = (path for path in vault.store.rglob("*") if path.is_file() and "locks" not in path.parts)
    return {str(path.relative_to(vault.store)): digest_of(path) for path in files}


def attacked(host: Host, vault: Server, generation: str) -> None:
    """By whoever has become root on the server."""
    Intruder(host, vault.address, vault.port, vault.account).destroys(generation, digests(vault))


def memory_lost(host: Host) -> None:
    """What lies there when no ledger is kept is taken for ours."""
    line = f"ExecStartPre=/bin/sh -c 'rm -f {HOME}/written-*'"
    host.check_output(f'sed -i "/^ExecStart=/i {line}" {SYSTEMD}/{SERVICE} && systemctl daemon-reload')


@claim("OFF-10", broken_by=memory_lost, symptom="one is not ours")
def test_what_nobody_here_has_sent_and_what_holds_far_less_is_noticed(host: Host, vault: Server, tmp_path: Path) -> None:
    """By somebody who has the password, marked as ours; and documents that are gone. Both stand until a person accepts them."""
    said = host.check_output("systemctl show -p ActiveState,TimersCalendar practice-offsite-verify.timer")
    wanted = ("ActiveState=active", "OnCalendar=Sat *-*-* 04:")
    assert [word for word in wanted if word not in said] == [], f"practice-offsite-verify.timer: {said}"
    alarm = {"offsite-foreign", "offsite-shrunk"}
    many = "$(find /srv -type f | wc -l)"
    host.check_output(f"mkdir -p /srv/probe && cd /srv/probe && seq $((50 + 2 * {many})) | xargs touch")
    theirs: list[Path] = []
    try:
        sent(host)
        state = sent(host, "verify")
        assert looked(host) & alarm == set(), f"control: nothing is wrong yet: {state.get('foreign')} {state.get('shrunk')}"
        (tmp_path / "letter").write_text(PATIENT)
        engine = opened(host, vault, state)
        id = engine.back_up([tmp_path / "letter"], "documents")
        theirs.append(vault.store / state["generation"] / "snapshots" / id)
        host.check_output("rm -rf /srv/probe")
        sent(host)
        sent(host, "verify")
        assert looked(host) & alarm == alarm, "no alarm although one is not ours, and much is missing"
        host.run("practice offsite accept")
        sent(host, "verify")
        assert looked(host) & alarm == set(), "the alarm stays although a person has accepted it"
    finally:
        # What somebody else has sent would be what the next drill fetches.
        for path in theirs:
            path.unlink()
        host.check_output("rm -rf /srv/probe; practice offsite accept")
        looked(host)


def looked(host: Host) -> set[str]:
    """The alarms that stand when the watch has looked."""
    host.check_output("systemctl restart practice-watch.service")
    return set(alarms(host))
