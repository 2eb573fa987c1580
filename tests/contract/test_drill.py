"""The drills with Debian's own PostgreSQL, pgBackRest and restic: they notice what they must, and leave nothing behind."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from roles.offsite import CONFIG, PASSWORD
from roles.recovery import CONFIG as PARTS
from tests.outside import CREDENTIALS, SEND, B, a_vault, beside, prepared
from tests.practiceserver import PSQL, Server, practice_server

WITHOUT_ROWS = """
import sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import rehearsal
from practice.__main__ import main
rehearsal.COUNTED += " AND relname <> 'lost'"
sys.exit(main(["drill", "--here"]))
"""
# Of the restored cluster alone.
WITHOUT_TEN = """
import sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import rehearsal
from practice.__main__ import main
counted = rehearsal.rows
def fewer(beside):
    beside.query("practice", "DELETE FROM visits WHERE id <= 10")
    return counted(beside)
rehearsal.rows = fewer
sys.exit(main(["drill", "--here"]))
"""
# What is emptied, written, or dropped after the moment, and how that is counted.
SEEN = """
import sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import rehearsal
named = dict(map(reversed, rehearsal.live("practice", "SELECT json_object_agg(relname, oid) FROM pg_class WHERE relkind = 'r'").items()))
with rehearsal.Sight("practice") as sight:
    rehearsal.live("practice", "TRUNCATE emptied; DELETE FROM visits WHERE id <= 10; SELECT to_json(1)")
    print(sorted((named[table], rows) for table, rows in sight.rows().items()))
with rehearsal.Sight("practice") as sight:
    rehearsal.live("practice", "DROP TABLE emptied; INSERT INTO visits SELECT generate_series(1, 10); SELECT to_json(1)")
    try:
        print(sight.rows())
    except rehearsal.Trouble as trouble:
        print(trouble)
"""
WITHOUT_ROOM = """
import sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import server
from practice.__main__ import main
server.SPARE_BYTES = 1 << 50
sys.exit(main(["drill", "--from", "offsite", "--here"]))
"""
DRILL = "/usr/local/bin/practice drill --from offsite"
CONFIGURED = "/etc/cabinet /var/lib/cabinet/secrets /var/lib/cabinet/tls /usr/local/share/ca-certificates"
# The timer's part, sooner; it may see something else than the drill does.
SENDING = f"""unshare --mount sh -c '{{sees}}; while sleep 2; do {SEND}; done' >/dev/null 2>&1 & sender=$!
{{drill}}; said=$?; kill $sender; exit $said"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A practice with some visits."""
    with practice_server() as server:
        server.sql("CREATE ROLE practice LOGIN; CREATE DATABASE practice OWNER practice TEMPLATE template0")
        visits = "CREATE TABLE visits AS SELECT id, md5(id::text) AS note FROM generate_series(1, 1000) AS id"
        server.sql(f"CREATE EXTENSION pgaudit; {visits}; CREATE INDEX ON visits (id); ANALYZE", "practice")
        yield server


def test_the_newest_backup_is_proved_each_night(server: Server) -> None:
    """It is rolled forward to a moment of which it knows what was there, all of it is counted, and the times are kept."""
    done = server.practice("drill")
    assert done.returncode == 0, done.stdout + done.stderr
    (drill,) = server.said("drill", "--history")
    # The canary's own table did not exist when the live cluster was asked.
    assert (drill["ok"], drill["tables"], drill["rows"], drill["rows_live"]) == (True, 2, 1001, 1000), drill
    assert 0 < drill["restore_seconds"] < drill["seconds"]
    assert server.out("ls /var/lib/postgresql") == "17", "something was left behind"
    assert server.said("drill", "--query", "SELECT count(*) FROM visits", "--database", "practice")["rows"] == ["1000"]
    assert server.sql("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'") == "0", "the live cluster was changed"


def test_damage_is_noticed_and_kept(server: Server) -> None:
    """A page of an index that the disk has spoilt reaches the backup; queries that do not use it would never notice."""
    path = server.sql("SELECT pg_relation_filepath('visits_id_idx')", "practice")
    server.sql("CHECKPOINT")
    server.out(f"printf '\\377\\377' | dd of=/var/lib/postgresql/17/main/{path} bs=1 seek=12000 conv=notrunc status=none")
    server.run("systemctl start practice-backup@diff.service")
    done = server.practice("drill")
    assert done.returncode == 1 and "failed after" in done.stdout, done.stdout + done.stderr
    assert server.said("drill", "--query", "SELECT count(*) FROM visits", "--database", "practice")["rows"] == ["1000"], "control: it runs"
    assert [drill["ok"] for drill in server.said("drill", "--history")] == [True, False]
    assert server.out("ls /var/lib/postgresql") == "17", "something was left behind"
    server.sql("REINDEX INDEX visits_id_idx", "practice")
    assert server.practice("drill").returncode == 0


def test_a_backup_that_lacks_rows_is_noticed(server: Server) -> None:
    """Everything there is restores well, but it is not what the live cluster holds: a drill must look, not only start."""
    server.sql("SELECT pg_stat_force_next_flush(); CREATE TABLE lost AS SELECT generate_series(1, 500) AS id", "practice")
    said = server.run("python3 -I -", WITHOUT_ROWS)
    assert said.returncode == 1 and "1 of " in said.stdout, said.stdout + said.stderr


def test_ten_rows_are_missed(server: Server) -> None:
    """What was counted on the live cluster at that moment must be there to the row; a half of an estimate is not enough."""
    server.sql("DROP TABLE IF EXISTS lost", "practice")
    said = server.run("python3 -I -", WITHOUT_TEN)
    assert said.returncode == 1 and "1 of 2 restored tables do not hold as many rows" in said.stdout, said.stdout + said.stderr
    done = server.practice("drill")
    assert done.returncode == 0 and "2 tables (2 to the row)" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("pause", "exact"), [("2", {2}), ("0", {0, 2})])
def test_who_writes_meanwhile_raises_no_false_alarm(server: Server, pause: str, exact: set[int]) -> None:
    """Rows come and go all the time: between two of them is a moment that holds what was counted. Where there is none, nothing is said."""
    write = "INSERT INTO visits SELECT generate_series(1, 3); DELETE FROM visits WHERE ctid IN (SELECT ctid FROM visits LIMIT 1)"
    loop = f"""touch /run/writes
    ( while test -e /run/writes; do echo "{write};"; sleep {pause}; done ) | ( {PSQL} -d practice -f - ) >/dev/null &
    /usr/local/bin/practice drill --json; said=$?; rm /run/writes; wait; exit $said"""
    before = int(server.sql("SELECT count(*) FROM visits", "practice"))
    done = server.run(loop)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["tables_exact"] in exact
    assert int(server.sql("SELECT count(*) FROM visits", "practice")) > before, "control: nobody wrote"


def test_what_is_emptied_after_the_moment_is_not_counted(server: Server) -> None:
    """TRUNCATE heeds no snapshot: its table is left out; what was deleted since is there still; of what was dropped nothing is said."""
    server.sql("CREATE TABLE emptied AS SELECT 1; TRUNCATE visits; INSERT INTO visits SELECT generate_series(1, 1000)", "practice")
    said = server.out("python3 -I -", SEEN).splitlines()
    assert said == ["[('visits', 1000)]", "the live cluster does not let its rows be counted"]
    server.sql("SELECT pg_stat_force_next_flush(); ANALYZE visits", "practice")


@pytest.fixture
def outside(server: Server, tmp_path: Path) -> Iterator[Server]:
    """The same practice, which sends to a host outside: some documents, and some secrets."""
    vault = a_vault(tmp_path)
    prepared(server, vault)
    server.out(f"umask 077; for path in {B} {PASSWORD}; do head -c 48 /dev/urandom | base64 -w 0 >$path; done; {CREDENTIALS}")
    server.out("install -d -m 2770 -g postgres /srv/letters; cd /srv/letters; for name in $(seq 30); do echo $name >$name; done")
    with beside(server, vault):
        yield server


def test_what_lies_outside_is_proved_each_quarter(outside: Server) -> None:
    """What is entered now leaves, is fetched, restored and compared, and how old it was is kept; what is not as it should be is named."""
    server = outside
    backups = server.said("backup", "--list")
    done = server.run(SENDING.format(sees=":", drill=f"{DRILL} --json"))
    assert done.returncode == 0, done.stdout + done.stderr
    drill = json.loads(done.stdout)
    assert drill == server.said("drill", "--history")[-1] and (drill["ok"], drill["from"]) == (True, "offsite")
    assert drill["label"] == backups[-1]["label"] and drill["rows"] >= drill["rows_live"] >= 1000, drill
    # Of 30 documents, 20; and each file of the configuration.
    assert drill["files"] == 20 + int(server.out(f"find {CONFIGURED} -type f | wc -l")) + 2
    assert 0 < drill["age_seconds"] < drill["seconds"] and drill["newest"] < drill["copied"] + 60, drill
    assert drill["fetched_bytes"] > 1 << 20
    left = "ls /var/lib/postgresql; ls /data; ps -eo args | grep -c '[/]outside\\|[/]scratch' || true"
    assert server.out(left).split() == ["17", "srv", "0"], "something was left behind"
    assert server.said("backup", "--list") == backups, "the practice's own repository was written to"
    assert "the copy outside of 20" in server.practice("drill", "--history").stdout

    def refused(command: str) -> str:
        done = server.run(command)
        assert done.returncode == 1, done.stdout + done.stderr
        assert not server.said("drill", "--history")[-1]["ok"] and server.out("ls /var/lib/postgresql") == "17"
        return done.stdout

    assert "MiB are free. Nothing was begun" in refused(SENDING.format(sees=":", drill=f"python3 -I -c {shlex.quote(WITHOUT_ROOM)}"))
    # The copy is sound, and it is not of what is here.
    server.out("cp -a /srv/letters /root/other; for name in $(seq 30); do echo other >/root/other/$name; done")
    said = refused(SENDING.format(sees="mount --bind /root/other /srv/letters", drill=DRILL))
    assert "20 of 20 documents are not in the copy outside" in said, said
    the_password_is_replaced(server)
    server.out(f"sed -i 's/: 60/: 0.05/' {CONFIG}")
    assert "had not left the practice after 0.05 minutes" in refused(DRILL)


def the_password_is_replaced(server: Server) -> None:
    """By one command: what was sent stays readable by the old one alone, what is sent from now on by the new one alone."""
    opens = "import sys; sys.path.insert(0, '/usr/local/lib/cabinet'); from practice import fetch; fetch.opened(sys.argv[1]).snapshots()"

    def readable(generation: str) -> bool:
        return server.run(f"python3 -I -c {shlex.quote(opens)} {generation}").returncode == 0

    server.out(f"""sed -i 's/"A": [^,]*, //' {PARTS}; cp {PASSWORD} /root/old""")
    # All that this test restored until now was of copies that do not count.
    assert counts(server) == (False, False)
    assert "does not count yet: nobody has shown a recovery kit" in server.practice("offsite").stdout
    shown(server)
    assert counts(server) == (True, True)
    old = server.said("offsite")["generation"]
    assert readable(old) and not readable(f"{old}-2"), "control"
    done = server.practice("recovery-kit", "--anew")
    assert done.returncode == 0 and "New: C;" in done.stdout and "could not" not in done.stdout, done
    assert server.said("offsite")["generation"] == f"{old}-2" and (readable(old), readable(f"{old}-2")) == (False, True)
    server.out(f"{SEND}; cp {PASSWORD} /root/new; cp /root/old {PASSWORD}")
    assert (readable(old), readable(f"{old}-2")) == (True, False)
    server.out(f"mv /root/new {PASSWORD}")
    assert counts(server) == (True, False), "the page that is held does not open what is sent now"
    shown(server)
    # As if nothing had arrived since the key is this one.
    server.out(f"touch {PASSWORD}")
    assert counts(server) == (True, False)
    server.out(SEND)
    assert counts(server) == (True, True)


def counts(server: Server) -> tuple[bool, bool]:
    """Whether the backups count, and the copy outside."""
    return server.said("backup", "--list")[-1]["counts"], server.said("offsite")["counts"]


def shown(server: Server) -> None:
    """Somebody makes the kit, and shows it."""
    server.out("/usr/local/bin/practice recovery-kit --confirm", server.out("/usr/local/bin/practice recovery-kit --text"))
