"""The nightly drill: the newest backup, rolled forward to a known moment, restored beside the live cluster, and looked at closely."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from practice import drilled, notes
from practice.alarm import VOLATILE
from practice.beside import Beside
from practice.drill import Restored, restored
from practice.server import BIN, PSQL, Trouble, archived, as_postgres, sql

# A table that the live cluster believes to hold fewer rows says nothing: its count is an estimate.
MANY_ROWS = 100

# Before the moment the row says one thing, and after it another: it is found only by who stops exactly there.
PLANT = """
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS cabinet;
CREATE TABLE IF NOT EXISTS cabinet.canary (only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one), token text NOT NULL);
INSERT INTO cabinet.canary (token) VALUES ('{before}') ON CONFLICT (only_one) DO UPDATE SET token = excluded.token;
"""
# Who writes holds a lock on its own number until others see what it has written; `snapshot` says which have ended, after the moment.
MOMENT = """
SELECT clock_timestamp() AS moment \\gset
SELECT count(*) AS writing FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' \\gset
SELECT pg_current_snapshot() AS snapshot \\gset
UPDATE cabinet.canary SET token = '{after}';
SELECT json_build_object('moment', :'moment', 'writing', :writing, 'snapshot', :'snapshot');
"""
SWITCH = "SELECT to_json(pg_walfile_name(pg_switch_wal()))"
# By the number that the system gives a table: a copy of the files has the same. Both estimates can be too high by themselves: one
# counts twice what was analyzed before its session had reported it, and the other is as old as the last vacuum.
BELIEVED = """
SELECT coalesce(json_object_agg(relid, least(n_live_tup, CASE WHEN reltuples >= 0 THEN reltuples::bigint END)), '{}')
  FROM pg_stat_user_tables JOIN pg_class ON oid = relid WHERE relpersistence = 'p'
"""
COUNTED = """
SELECT coalesce(json_object_agg(oid, (xpath('/row/n/text()', counted))[1]::text::bigint), '{}')
  FROM pg_class, query_to_xml('SELECT count(*) AS n FROM ' || oid::regclass, false, true, '') AS counted
 WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'
"""
# The same on the live cluster: of each database the smallest tables, so much of it together; that is read once each night. What was emptied
# or written anew after the moment holds other rows than it did then, and has another file: TRUNCATE heeds no snapshot.
EXACT_BYTES = 1 << 30
EXACTLY = f"""
SELECT coalesce(json_object_agg(oid, (xpath('/row/n/text()', counted))[1]::text::bigint)
                FILTER (WHERE relfilenode = pg_relation_filenode(oid)), '{{}}')
  FROM (SELECT oid, relfilenode, sum(pg_table_size(oid)) OVER (ORDER BY pg_table_size(oid), oid) AS bytes FROM pg_class
         WHERE relkind = 'r' AND relpersistence = 'p' AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)') AS tables,
       query_to_xml('SELECT count(*) AS n FROM ' || oid::regclass, false, true, '') AS counted
 WHERE bytes <= {EXACT_BYTES};
"""
# How often a moment is looked for at which nobody writes.
TRIES, PAUSE_SECONDS = 10, 1

Counts = dict[tuple[str, str], int]


def rehearse(source: str) -> drilled.Drill:
    """Do it, and keep what came of it. Raises Trouble when anything is not as it should be; that is kept as well."""
    from practice import outside  # noqa: PLC0415 -- it needs what is here

    began = time.monotonic()
    drill: drilled.Drill = {"ok": False, "from": source, "why": "it ended in an error of its own"}
    try:
        drill = {"ok": True, "from": source} | (outside.proved() if source == drilled.OUTSIDE else proved())
    except Trouble as trouble:
        drill["why"] = str(trouble)
        raise
    finally:
        drill |= {"at": time.time(), "seconds": round(time.monotonic() - began, 1)}
        drilled.note(drill)
    return drill


def proved() -> drilled.Drill:
    """Restore to the moment between the two words of the canary, and check all that can be checked. Raises Trouble."""
    from practice import outside  # noqa: PLC0415

    outside.tidied()
    believed = believes()
    before = secrets.token_hex(16)
    with the_canary():
        moment, exact = planted_in_quiet(before, after=secrets.token_hex(16))
    with restored(moment) as scratch:
        return examined(scratch, believed, moment, before, exact) | {"tables_exact": len(exact)}


class Sight:
    """One database of the live cluster as it was when this was opened, until it is closed."""

    def __init__(self, database: str) -> None:
        """Look. Raises Trouble."""
        self._psql = subprocess.Popen(
            (PSQL, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/",
            user="postgres", group="postgres", extra_groups=[],
        )  # fmt: skip
        # Whoever waits for a lock keeps others waiting behind it.
        limits = "SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = '1h'; SET LOCAL max_parallel_workers_per_gather = 0;"
        self.snapshot = self._asked(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {limits} SELECT pg_current_snapshot();")

    def __enter__(self) -> Sight:
        return self

    def __exit__(self, *_: object) -> None:
        self._psql.terminate()
        self._psql.communicate()

    def rows(self) -> dict[str, int]:
        """The rows of its smaller tables, counted. Raises Trouble."""
        return json.loads(self._asked(EXACTLY))

    def _asked(self, statement: str) -> str:
        with suppress(BrokenPipeError):
            self._psql.stdin.write(f"{statement}\n")
            self._psql.stdin.flush()
        if not (line := self._psql.stdout.readline().strip()):
            raise Trouble("the live cluster does not let its rows be counted")
        return line


@contextmanager
def the_canary() -> Iterator[None]:
    """Nobody else plants one meanwhile."""
    VOLATILE.mkdir(mode=0o755, exist_ok=True)
    with notes.only_one(VOLATILE / "canary.lock"):
        yield


def examined(scratch: Restored, believed: Counts, moment: str, token: str, exact: Counts | None = None) -> drilled.Drill:
    """All that can be checked of what was restored; it is stopped afterwards. `exact`: what was counted at that moment. Raises Trouble."""
    began = time.monotonic()
    found = scratch.beside.query("postgres", "SELECT token FROM cabinet.canary").strip()
    if found != token:
        raise Trouble(f"what was restored is not the state of {moment}: the row that was written then is not there")
    counted = rows(scratch.beside)
    compared(believed, counted, exact or {})
    size = int(scratch.beside.query("postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database"))
    checked(scratch.beside)
    return {
        "label": scratch.label,
        "moment": moment,
        "restore_seconds": round(scratch.seconds, 1),
        "check_seconds": round(time.monotonic() - began, 1),
        "bytes": size,
        "tables": len(counted),
        "rows": sum(counted.values()),
        "rows_live": sum(believed.values()),
    }


def believes() -> Counts:
    """How many rows the live cluster believes that each of its tables holds. Raises Trouble."""
    return {key: rows for database in names() for key, rows in table_rows(database, live(database, BELIEVED)).items()}


def names() -> list[str]:
    """The live cluster's databases."""
    return sql("SELECT json_agg(datname) FROM pg_database WHERE datallowconn AND NOT datistemplate")


def live(database: str, statement: str) -> Any:
    """The one JSON value that `statement` selects in a database of the live cluster. Raises Trouble."""
    return json.loads(as_postgres(PSQL, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-", stdin=statement))


def table_rows(database: str, counts: dict[str, int]) -> Counts:
    """The counts of one database, told apart from those of others."""
    return {(database, table): count for table, count in counts.items()}


def planted(before: str, after: str) -> str:
    """Write the canary, and wait until that has reached the backup disk; the moment between its two words. Raises Trouble."""
    sql(PLANT.format(before=before))
    said = sql(MOMENT.format(after=after))
    archived(sql(SWITCH))
    return said["moment"]


def planted_in_quiet(before: str, after: str) -> tuple[str, Counts]:
    """The same at a moment at which nobody writes, and the rows of the smaller tables then; none if somebody always does. Raises Trouble.

    What each database shows is fixed before the moment, and which writers have ended is asked after it: where both agree, and no writer is
    about to end, a restore to that moment must hold exactly that.
    """
    exact: Counts = {}
    for left in reversed(range(TRIES)):
        sql(PLANT.format(before=before))
        with ExitStack() as stack:
            sights = {name: stack.enter_context(Sight(name)) for name in names()}
            said = sql(MOMENT.format(after=after))
            if not said["writing"] and {sight.snapshot for sight in sights.values()} == {said["snapshot"]}:
                with suppress(Trouble):  # such as a table that is locked
                    exact = {key: rows for name, sight in sights.items() for key, rows in table_rows(name, sight.rows()).items()}
                break
        if left:
            time.sleep(PAUSE_SECONDS)
    archived(sql(SWITCH))
    return said["moment"], exact


def rows(beside: Beside) -> Counts:
    """Every row of every table, counted. Raises Trouble when one cannot be read."""
    databases = [name for name in beside.databases() if not name.startswith("template")]
    return {key: count for name in databases for key, count in table_rows(name, json.loads(beside.query(name, COUNTED, 86400))).items()}


def compared(believed: Counts, counted: Counts, exact: Counts) -> None:
    """Raises Trouble when tables are missing, do not hold the rows that were counted, or less than half of those that are believed."""
    if other := [key for key, count in exact.items() if counted.get(key) != count]:
        raise Trouble(f"{len(other)} of {len(exact)} restored tables do not hold as many rows as the live ones held at that moment")
    few = [key for key, count in believed.items() if count >= MANY_ROWS and counted.get(key, 0) * 2 < count]
    if few:
        raise Trouble(f"{len(few)} of {len(believed)} restored tables hold less than half of the rows that the live ones hold")


def checked(beside: Beside) -> None:
    """Each table and index is sound, and each page is as it was written; it is stopped afterwards. Raises Trouble."""
    as_postgres(f"{BIN}/pg_amcheck", "-h", str(beside.path), "--all", "--install-missing", "--heapallindexed", timeout=86400)
    beside.stop()
    as_postgres(f"{BIN}/pg_checksums", "--check", "-D", str(beside.path), timeout=86400)
