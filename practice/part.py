"""One database, or one table, comes back out of a cluster restored beside the live one; nothing else is touched."""

from __future__ import annotations

import json
import re
import subprocess

from practice import journal
from practice.beside import Beside
from practice.drill import restored
from practice.journal import REPLACED, Work
from practice.server import BIN, DATA, PSQL, Trouble, as_postgres, spare, sql

LONGEST_NAME = 63
KEPT = re.compile(r"(?P<name>.+)_before_\d{8}_\d{6}")
# As the database was: its owner, and how it sorts. What PUBLIC may do with a new one is taken back at once.
SHAPE = """
SELECT to_json(format('CREATE DATABASE %s TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L LOCALE_PROVIDER %s',
  {new}, datdba::regrole::text, pg_encoding_to_char(encoding), datcollate, datctype,
  CASE datlocprovider WHEN 'i' THEN format('icu ICU_LOCALE %L', datlocale) || coalesce(format(' ICU_RULES %L', daticurules), '')
    WHEN 'b' THEN format('builtin BUILTIN_LOCALE %L', datlocale) ELSE 'libc' END))
FROM pg_database WHERE datname = {name}
"""
GRANTS = """
SELECT coalesce(json_agg(format('GRANT %s ON DATABASE %s TO %s', privilege_type, {new}, grantee::regrole)), '[]')
  FROM pg_database, aclexplode(datacl) WHERE datname = {name} AND grantee <> 0
"""
# A partition, or a child, would be attached to the live parent, which then had its rows.
ALONE = """
SELECT format(CASE WHEN relispartition THEN 'ALTER TABLE %1$s DETACH PARTITION %2$s' ELSE 'ALTER TABLE %2$s NO INHERIT %1$s' END,
  inhparent::regclass, inhrelid::regclass) FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhrelid = to_regclass({table}) \\gexec
"""
DATABASES = "SELECT json_agg(datname ORDER BY datname) FROM pg_database"


def kept() -> list[str]:
    """The databases that earlier restores have kept under another name. Raises Trouble."""
    return [name for name in sql(DATABASES) if KEPT.fullmatch(name)]


def database(work: Work) -> None:
    """The database as it was, under its name; the present one gets another name. Raises Trouble, and then nothing was replaced."""
    before = aside(work)
    try:
        if work["step"] == "beside":
            filled(work, growing(work))
            work["step"] = "switch"
            journal.write(work)
        if not switched(work):
            exchanged(work["name"], growing(work), before)
    except Trouble:
        cancelled(work)
        raise
    journal.ended()


def growing(work: Work) -> str:
    """The name of the restored database until it gets its own."""
    return f"{work['name']}_restoring"


def free(work: Work) -> None:
    """Raises Trouble where a database has that name already: no restore is unfinished, so none of ours grows there."""
    if growing(work) in sql(DATABASES):
        raise Trouble(f"there is a database {growing(work)}, which this restore has not made: rename it, or drop it; nothing was begun")


def switched(work: Work) -> bool:
    """Whether what was restored has its name already: whole as it was before that step, it is under no other. Raises Trouble."""
    return work["step"] == "switch" and growing(work) not in sql(DATABASES)


def filled(work: Work, new: str) -> None:
    """A database `new` that is what the other was. Raises Trouble."""
    name = work["name"]
    with restored(work.get("to"), work.get("label")) as scratch:
        if name not in scratch.beside.databases():
            raise Trouble(f"there was no database {name} then")
        room(scratch.beside, name, "pg_database_size(current_database())")
        work["unlogged"] = scratch.beside.unlogged(name)
        names = {"name": literal(name), "new": literal(identifier(new))}
        live(f"DROP DATABASE IF EXISTS {identifier(new)} WITH (FORCE)")
        live(json.loads(scratch.beside.query("postgres", SHAPE.format(**names))))
        live(f"REVOKE ALL ON DATABASE {identifier(new)} FROM PUBLIC")
        for grant in json.loads(scratch.beside.query("postgres", GRANTS.format(**names))):
            live(grant)
        poured(scratch.beside, name, new)
    live("ANALYZE", new)


def exchanged(name: str, new: str, before: str) -> None:
    """`new` gets the name, and what had it is called `before`; both in one step, in which nobody may be connected. Raises Trouble."""
    renames = [f"ALTER DATABASE {identifier(new)} RENAME TO {identifier(name)};"]
    if name in sql(DATABASES):
        renames.insert(0, f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(before)};")
    out = f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname IN ({literal(name)}, {literal(new)});"
    for attempt in range(5):
        try:
            live("\n".join([out, "BEGIN;", *renames, "COMMIT;"]))
            return
        except Trouble as trouble:  # an application that connects again at once
            if attempt == 4 or "other session" not in str(trouble):
                raise


def returned(name: str, id: str) -> str:
    """A database that was kept has its name again; the present one is kept in turn, under the name that is returned. Raises Trouble."""
    found = KEPT.fullmatch(name)
    if not found or name not in sql(DATABASES):
        raise Trouble(f"no database is kept as {name}; `practice restore` lists those that are")
    before = aside({"name": found["name"], "id": id})
    exchanged(found["name"], name, before)
    return before


def cancelled(work: Work) -> None:
    """What was begun is gone; the database is what it was. Raises Trouble when it has been replaced already."""
    if switched(work):
        raise Trouble(REPLACED)
    live(f"DROP DATABASE IF EXISTS {identifier(growing(work))} WITH (FORCE)")
    journal.ended()


def table(where: str, to: str | None, label: str | None, id: str) -> str:
    """A table as it was, into a schema of its own beside the live one; that schema's name. All of it or nothing. Raises Trouble."""
    parts = where.split(".")
    if len(parts) != 3 or not all(parts):
        raise Trouble(f'"{where}" is not DATABASE.SCHEMA.TABLE')
    name, schema, side = parts[0], f"{identifier(parts[1])}.{identifier(parts[2])}", f"restored_{id}"
    with restored(to, label) as scratch:
        if name not in scratch.beside.databases():
            raise Trouble(f"there was no database {name} then")
        kind_of = f"SELECT relkind, relpersistence, relowner::regrole FROM pg_class WHERE oid = to_regclass({literal(schema)})"
        found = scratch.beside.query(name, kind_of).strip()
        if not found:
            raise Trouble(f"there was no table {parts[1]}.{parts[2]} in {name} then")
        kind, lasting, owner = found.split("|", 2)
        if kind != "r":
            raise Trouble(f"{parts[1]}.{parts[2]} is no plain table; name each of its partitions, or restore the whole database")
        if lasting == "u":
            raise Trouble(f"{parts[1]}.{parts[2]} is unlogged: no backup has its rows")
        room(scratch.beside, name, f"pg_table_size({literal(schema)})")
        # Renamed where nobody sees it, so that the live table's name occurs in nothing that is carried over.
        alone = ALONE.format(table=literal(schema))
        scratch.beside.query(name, f"{alone}CREATE SCHEMA {side} AUTHORIZATION {owner}; ALTER TABLE {schema} SET SCHEMA {side}")
        poured(scratch.beside, name, name, f"--schema={side}", "--section=pre-data", "--section=data")
    return side


def room(beside: Beside, name: str, measured: str) -> None:
    """Raises Trouble where the rows have no room in the live cluster, which writes each of them twice: the changes are kept as well."""
    spare(DATA.parent, 2 * int(beside.query(name, f"SELECT {measured}")))


def poured(beside: Beside, name: str, into: str, *what: str) -> None:
    """From the restored cluster's database `name` into the live cluster's `into`, in one transaction. Raises Trouble."""
    asked = {"cwd": "/", "user": "postgres", "group": "postgres", "extra_groups": [], "stderr": subprocess.PIPE}
    dump = [f"{BIN}/pg_dump", "-Fc", "-Z0", "-h", str(beside.path), "-d", name, *what]
    take = [f"{BIN}/pg_restore", "--single-transaction", "--exit-on-error", "-d", into]
    with (
        subprocess.Popen(dump, stdout=subprocess.PIPE, **asked) as giver,
        subprocess.Popen(take, stdin=giver.stdout, stdout=subprocess.DEVNULL, **asked) as taker,
    ):
        giver.stdout.close()
        said = taker.communicate()[1].decode(errors="replace")
        said = giver.communicate()[1].decode(errors="replace") + said
    if giver.returncode or taker.returncode:
        raise Trouble(next((line for line in said.splitlines() if "error:" in line), "the rows could not be carried over"))


def aside(work: Work) -> str:
    """The name under which the present database is kept. Raises Trouble when it would be too long."""
    name = f"{work['name']}_before_{work['id']}"
    if len(name.encode()) > LONGEST_NAME:
        raise Trouble(f"the name {work['name']} is too long to keep that database as {name}")
    return name


def live(statement: str, database: str = "postgres") -> None:
    """Carry it out in the live cluster. Raises Trouble."""
    as_postgres(PSQL, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-", stdin=statement, timeout=86400)


def identifier(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"
