"""The nightly drill with Debian's own PostgreSQL and pgBackRest: it notices what it must, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.practiceserver import Server, practice_server

WITHOUT_ROWS = """
import sys
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import rehearsal
from practice.__main__ import main
rehearsal.COUNTED += " AND relname <> 'lost'"
sys.exit(main(["drill", "--here"]))
"""


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
