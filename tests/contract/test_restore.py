"""Going back, with Debian's own PostgreSQL and pgBackRest: to a moment, and back again, also when the power is cut in between."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from roles.backup import CLUSTER
from tests.practiceserver import Server, practice_server

NOTES = "SELECT string_agg(note, ' ' ORDER BY id) FROM visits"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A practice with one visit, and an application that has a password."""
    with practice_server() as server:
        server.sql("CREATE ROLE practice LOGIN PASSWORD 'first'; CREATE DATABASE practice OWNER practice TEMPLATE template0")
        server.sql("REVOKE ALL ON DATABASE practice FROM PUBLIC; CREATE DATABASE other TEMPLATE template0")
        server.sql("CREATE EXTENSION pgaudit; CREATE TABLE visits (id serial PRIMARY KEY, note text)", "practice")
        server.sql("ALTER TABLE visits OWNER TO practice", "practice")
        yield server


@pytest.fixture
def moment(server: Server) -> str:
    """After the first visit, before the mistake."""
    server.sql("TRUNCATE visits RESTART IDENTITY; INSERT INTO visits (note) VALUES ('first')", "practice")
    at = server.moment()
    server.sql("INSERT INTO visits (note) VALUES ('mistake')", "practice")
    return at


def notes(server: Server) -> str:
    """What the application reads."""
    return server.sql(NOTES, "practice")


def test_everything_goes_back_and_returns(server: Server, moment: str) -> None:
    """To the moment; what was there is kept and can be returned to; what is entered meanwhile is kept as well; drills go on working."""
    server.sql("ALTER ROLE practice PASSWORD 'second'")
    secret = server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'practice'")
    assert server.practice("restore", "--to", moment).returncode == 1, "control: it asks"
    assert notes(server) == "first mistake"
    server.out(f"/usr/local/bin/practice restore --to '{moment}'", "restore\n")
    assert notes(server) == "first"
    assert server.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'practice'") == secret, "the application is shut out"
    assert server.sql("SELECT count(*) FROM pg_file_settings WHERE sourcefile ~ 'auto.conf'") == "0"
    assert server.practice("drill").returncode == 0, "the new history cannot be restored"
    server.sql("INSERT INTO visits (note) VALUES ('second')", "practice")
    between = server.moment()
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
    assert notes(server) == "first mistake"
    assert server.practice("drill").returncode == 0, "the history that was returned to cannot be restored"
    asked = ("--query", NOTES, "--database", "practice")
    assert server.said("drill", "--to", between, *asked)["rows"] == ["first second"], "a moment in the history that was left is lost"
    assert server.said("drill", "--to", moment, *asked)["rows"] == ["first"]
    assert server.said("drill", *asked)["rows"] == ["first mistake"]
    server.sql("INSERT INTO visits (note) VALUES ('third')", "practice")
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
    assert notes(server) == "first second"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")
    assert server.said("restore") ["kept"] == [] and server.out("ls /var/lib/postgresql/17") == "main"


def test_a_backup_is_gone_back_to_exactly(server: Server, moment: str) -> None:
    """What it holds and nothing later, although that is in the archive: everything, then one database; the present state is kept."""
    server.out("systemctl start practice-backup@diff.service")
    label = server.said("backup", "--list")[-1]["label"]
    server.sql("INSERT INTO visits (note) VALUES ('later')", "practice")
    server.moment()
    for what in ((), ONE):
        server.out(shlex.join(["/usr/local/bin/practice", "restore", "--backup", label, "--yes", *what]))
        assert notes(server) == "first mistake"
        (kept,) = server.said("restore")["kept"]
        server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
        assert notes(server) == "first mistake later"
        (kept,) = server.said("restore")["kept"]
        server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


# The power goes before this function does its work, or after: (module, function, how many calls before). With everything:
CUTS = {
    "while it is restored": ("whole.Beside", "configure", 0),
    "while it is rolled forward": ("whole.Beside", "stop", 0),
    "before the live one is stopped": ("whole", "switched", 0),
    "when the live one is stopped": ("whole", "run", 2),
    "before the data directory is kept": ("journal", "synced", 2),
    "before the new one starts": ("whole", "run", 3),
    "before the end": ("journal", "ended", 0),
}
# The cuts around the exchange.
AROUND = ("before the data directory is kept", "before the end")
# With one database:
ONE_CUTS = {
    "while it is filled": ("part", "poured", 0),
    "before it is known to be filled": ("journal", "write", 1),
    "before the exchange": ("part", "exchanged", 0),
    "after the exchange": ("journal", "ended", 0),
}
ONE = ("--database", "practice")
CUT = """
import contextlib, os, sys
from pathlib import Path
sys.path.insert(0, "/usr/local/lib/cabinet")
from practice import beside, journal, part, whole
from practice.__main__ import main
owner = {{"whole.Beside": whole.Beside, "whole": whole, "part": part, "journal": journal}}["{owner}"]
real, calls = getattr(owner, "{name}"), []
def cut(*words, **more):
    if len(calls) == {after}:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (process / "comm").read_text().strip() in ("postgres", "pgbackrest"):
                    os.kill(int(process.name), 9)
        os._exit(137)
    calls.append(words)
    return real(*words, **more)
setattr(owner, "{name}", cut)
sys.exit(main(["restore", "--to", "{moment}", "--yes", *{what}]))
"""


def cut(server: Server, moment: str, where: str, *what: str) -> None:
    """A restore of everything, or of `what`, that ends there; then the server boots."""
    owner, name, after = (ONE_CUTS if what else CUTS)[where]
    done = server.run("python3 -I -", CUT.format(owner=owner, name=name, after=after, moment=moment, what=what))
    assert done.returncode == 137, f"control: it was not cut: {done.stdout}{done.stderr}"
    # After a boot those numbers are nobody's; here they are dead processes that nobody has buried.
    server.out("rm -f /run/postgresql/.s.* /var/lib/postgresql/*/postmaster.pid /var/lib/postgresql/17/*/postmaster.pid")
    server.out("systemctl start postgresql@17-main.service")
    said = server.practice("restore")
    assert f"INTERRUPTED: {'the database practice' if what else 'everything'}" in said.stdout, said.stdout + said.stderr
    assert server.practice("restore", "--to", moment, "--yes").returncode == 1, "a second one is begun beside the first"


@pytest.mark.longer("where", AROUND, [where for where in CUTS if where not in AROUND])
def test_a_power_cut_anywhere_is_gone_on_from(server: Server, moment: str, where: str) -> None:
    """After the boot the practice works, with all or with nothing of it; it is said, and gone on with to the end."""
    cut(server, moment, where)
    assert notes(server) in ("first mistake", "first"), "it is neither what it was nor what it was to be"
    server.out("/usr/local/bin/practice restore --resume --yes")
    assert notes(server) == "first"
    (kept,) = server.said("restore")["kept"]
    assert server.said("restore")["unfinished"] is None
    assert server.out("ls /var/lib/postgresql/17").split() == ["main", kept]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_a_power_cut_can_be_taken_back(server: Server, moment: str) -> None:
    """Before the live one is replaced nothing has happened, and nothing is left."""
    for where in ("while it is restored", "when the live one is stopped"):
        cut(server, moment, where)
        server.out("/usr/local/bin/practice restore --cancel")
        assert notes(server) == "first mistake"
        assert server.out("ls /var/lib/postgresql/17") == "main" and server.said("restore")["unfinished"] is None
    cut(server, moment, "before the new one starts")
    assert server.practice("restore", "--cancel").returncode == 1, "what was entered before is lost"
    server.out("/usr/local/bin/practice restore --resume --yes")
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_a_database_that_was_stopped_in_vain_is_started(server: Server, moment: str) -> None:
    """What was restored cannot take its place: the live one goes on at once, and after --cancel, whatever stopped it; or on to the end."""
    server.out("cp /usr/bin/mv /root/mv; printf '#!/bin/sh\\nexit 1\\n' >/usr/bin/mv")
    done = server.practice("restore", "--to", moment, "--yes")
    assert done.returncode == 1 and notes(server) == "first mistake", done
    server.out("systemctl stop postgresql@17-main.service; /usr/local/bin/practice restore --cancel")
    assert notes(server) == "first mistake" and server.out("ls /var/lib/postgresql/17") == "main"
    assert server.practice("restore", "--to", moment, "--yes").returncode == 1
    server.out("cp /root/mv /usr/bin/mv; /usr/local/bin/practice restore --resume --yes")
    assert notes(server) == "first"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


# A terminal is lost when all is restored; a backup holds it up.
HUNG_UP = """
import fcntl, os, signal, subprocess, sys, time
from pathlib import Path
held = os.open("/var/lib/cabinet/pgbackrest", os.O_RDONLY)
fcntl.flock(held, fcntl.LOCK_EX)
def practice(*words):
    return subprocess.run(["/usr/local/bin/practice", "restore", *words], capture_output=True, text=True, timeout=20).stdout
begun = subprocess.Popen(["/usr/local/bin/practice", "restore", "--to", "{moment}", "--yes"], start_new_session=True)
while not Path("/var/lib/postgresql/17/main.restoring/cabinet-restored").exists():
    assert begun.poll() is None
    time.sleep(0.05)
os.killpg(begun.pid, signal.SIGHUP)
assert begun.wait() == -signal.SIGHUP
print(practice(), practice("--resume", "--yes"))
os.close(held)
end = time.monotonic() + 60
while Path("/var/lib/cabinet/restore.json").exists() and time.monotonic() < end:
    time.sleep(0.1)
"""


def test_a_restore_goes_on_without_its_terminal(server: Server, moment: str) -> None:
    """Its connection ends: it comes to its end by itself, and until then it is said that it goes on."""
    said = server.out("python3 -I -", HUNG_UP.format(moment=moment))
    assert notes(server) == "first" and server.said("restore")["unfinished"] is None
    assert "GOING ON: everything" in said and "INTERRUPTED" not in said and "another restore is going on" in said, said
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_what_does_not_start_is_replaced_by_what_was_there(server: Server, moment: str) -> None:
    """The practice works as before, in a history that can be restored."""
    server.out("touch /run/no-start")
    done = server.practice("restore", "--to", moment, "--yes")
    assert done.returncode == 1 and "did not start" in done.stdout, done.stdout + done.stderr
    assert notes(server) == "first mistake" and server.said("restore")["unfinished"] is None
    assert server.practice("drill").returncode == 0, "the history that was returned to cannot be restored"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


KEY = "/etc/pgbackrest/conf.d/key.conf"
# What stops the state that was there from getting a history of its own, and what mends it: once its cluster runs, and before.
WITHOUT = {
    "the repository cannot be read": (f"sed -i s/a-key/another-key/ {KEY}", f"sed -i s/another-key/a-key/ {KEY}"),
    "pgBackRest cannot be run": ("chmod a-x /usr/bin/pgbackrest", "chmod a+x /usr/bin/pgbackrest"),
}


@pytest.mark.parametrize("fault", WITHOUT)
def test_what_was_there_comes_back_also_without_the_archive(server: Server, moment: str, fault: str) -> None:
    """It breaks when what was restored does not start: the practice works as before, and what it enters is archived once that is mended."""
    breaks, mends = WITHOUT[fault]
    server.out("cat >/run/no-start", breaks)
    done = server.practice("restore", "--to", moment, "--yes")
    server.out(mends)
    assert done.returncode == 1 and "did not start" in done.stdout, done.stdout + done.stderr
    assert notes(server) == "first mistake" and server.said("restore")["unfinished"] is None
    assert server.practice("drill").returncode == 0, "what is entered now cannot be restored"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_a_power_cut_on_the_way_back_from_what_does_not_start(server: Server, moment: str) -> None:
    """It is gone on with to what was there, and cannot be taken back: what does not start had replaced it."""
    server.out("touch /run/no-start")
    cut(server, moment, "before the end")
    assert server.practice("restore", "--cancel").returncode == 1, "what does not start was left in its place"
    server.out("/usr/local/bin/practice restore --resume --yes")
    assert notes(server) == "first mistake" and server.said("restore")["unfinished"] is None
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_one_database_goes_back_and_returns(server: Server, moment: str) -> None:
    """The others stay as they are; the present one is kept; how it is owned, sorted and closed is as before."""
    server.sql("CREATE TABLE now AS SELECT 1", "other")
    shape = "SELECT datdba::regrole, datcollate, datlocprovider, datlocale, datacl::text FROM pg_database WHERE datname = 'practice'"
    before = server.sql(shape)
    server.out(f"/usr/local/bin/practice restore --to '{moment}' --database practice --yes")
    assert notes(server) == "first" and server.sql("SELECT count(*) FROM now", "other") == "1"
    assert server.sql(shape) == before
    assert server.sql("SELECT relowner::regrole FROM pg_class WHERE relname = 'visits'", "practice") == "practice"
    (kept,) = server.said("restore")["kept"]
    assert server.sql(NOTES, kept) == "first mistake"
    server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
    assert notes(server) == "first mistake"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")
    assert server.said("restore")["kept"] == []
    assert server.practice("restore", "--to", moment, "--database", "nowhere", "--yes").returncode == 1
    assert server.said("restore")["unfinished"] is None


def test_a_database_that_somebody_has_made_is_not_dropped(server: Server, moment: str) -> None:
    """Not even one that is called as what grows: it is named and stays, whatever becomes of the restore; once it is gone, that works."""
    server.sql("CREATE DATABASE practice_restoring TEMPLATE template0")
    server.sql("CREATE TABLE own AS SELECT 1", "practice_restoring")
    words = ("restore", "--to", moment, *ONE, "--yes")
    refused = server.practice(*words)
    assert refused.returncode == 1 and "there is a database practice_restoring" in refused.stdout, refused
    assert server.sql("SELECT count(*) FROM own", "practice_restoring") == "1" and server.said("restore")["unfinished"] is None
    server.sql("DROP DATABASE practice_restoring")
    assert server.practice(*words).returncode == 0 and notes(server) == "first"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


@pytest.mark.longer("where", ("before the exchange", "after the exchange"), ("while it is filled", "before it is known to be filled"))
def test_a_power_cut_while_one_database_goes_back_is_gone_on_from(server: Server, moment: str, where: str) -> None:
    """After the boot it is what it was or what it was to be; it is gone on with to the end, and what was there is kept once."""
    cut(server, moment, where, *ONE)
    assert notes(server) == ("first" if where == "after the exchange" else "first mistake")
    server.sql("INSERT INTO visits (note) VALUES ('meanwhile')", "practice")
    server.out("/usr/local/bin/practice restore --resume --yes")
    (kept,) = server.said("restore")["kept"]
    read = [notes(server), server.sql(NOTES, kept)]
    assert read == (["first meanwhile", "first mistake"] if where == "after the exchange" else ["first", "first mistake meanwhile"])
    assert server.said("restore")["unfinished"] is None and "practice_restoring" not in server.sql("SELECT datname FROM pg_database")
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_a_power_cut_while_one_database_goes_back_can_be_taken_back(server: Server, moment: str) -> None:
    """Until it has its name nothing has happened, and nothing is left; from then on it is refused, and gone on with and returned from."""
    there = server.sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database")
    for where in ("while it is filled", "before the exchange"):
        cut(server, moment, where, *ONE)
        server.out("/usr/local/bin/practice restore --cancel")
        assert notes(server) == "first mistake" and server.said("restore")["unfinished"] is None
        assert server.sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database") == there
    cut(server, moment, "after the exchange", *ONE)
    refused = server.practice("restore", "--cancel")
    assert refused.returncode == 1 and "has taken its place already" in refused.stdout, refused
    server.out("/usr/local/bin/practice restore --resume --yes")
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --back {kept} --yes")
    assert notes(server) == "first mistake"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_a_database_that_is_gone_comes_back(server: Server, moment: str) -> None:
    """Nothing is kept of it, and a power cut at the end is noticed all the same."""
    server.sql("DROP DATABASE practice")
    cut(server, moment, "after the exchange", *ONE)
    assert server.practice("restore", "--cancel").returncode == 1, "the only one there is was said not to be there"
    said = server.out("/usr/local/bin/practice restore --resume --yes")
    assert "none is kept" in said and "--back" not in said, said
    assert notes(server) == "first" and server.said("restore")["kept"] == []


def test_a_database_that_is_broken_comes_back_up_to_its_end(server: Server, moment: str) -> None:
    """It does not start and hands nothing over any more: a moment after what is archived is refused, with the way to the end of that."""
    server.moment()
    control = f"{CLUSTER}/global/pg_control"
    server.out(f"systemctl stop postgresql@17-main.service; mv {control} /root/control; systemctl start postgresql@17-main.service || true")
    done = server.practice("restore", "--to", server.out("date '+%F %T.%6N'"), "--yes")
    assert done.returncode == 1 and "what is archived ends before that moment, with 20" in done.stdout, done.stdout + done.stderr
    said = server.out("/usr/local/bin/practice restore --to newest --yes")
    assert "at the end of what is archived" in said and notes(server) == "first mistake", said
    assert server.practice("drill").returncode == 0, "the history that was begun cannot be restored"
    (kept,) = server.said("restore")["kept"]
    server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")


def test_one_table_comes_back_beside_the_live_one(server: Server, moment: str) -> None:
    """With its rows and its owner, in a schema of its own; the live table, and what may be done with it, is untouched."""
    said = server.out(f"/usr/local/bin/practice restore --to '{moment}' --table practice.public.visits")
    (side,) = (word for word in said.replace(";", " ").split() if word.startswith("restored_"))
    assert server.sql(NOTES.replace("visits", f"{side}.visits"), "practice") == "first" and notes(server) == "first mistake"
    assert server.sql(f"SELECT relowner::regrole FROM pg_class WHERE oid = '{side}.visits'::regclass", "practice") == "practice"
    server.sql(f"DROP SCHEMA {side} CASCADE", "practice")
    assert "there was no table" in server.practice("restore", "--to", moment, "--table", "practice.public.nothing").stdout


def test_a_table_that_no_backup_holds_is_named(server: Server, moment: str) -> None:
    """Unlogged: it comes back empty, which is said of a database and of everything; alone it does not come back."""
    server.sql("CREATE UNLOGGED TABLE queue AS SELECT 1", "practice")
    then = server.moment()
    refused = server.practice("restore", "--to", then, "--table", "practice.public.queue")
    assert refused.returncode == 1 and "queue is unlogged" in refused.stdout, refused
    for what in ("--database practice", ""):
        said = server.out(f"/usr/local/bin/practice restore --to '{then}' --yes {what}")
        assert "except these unlogged tables, which are empty: practice.public.queue. To return" in said, said
        assert server.sql("SELECT count(*) FROM queue", "practice") == "0" and notes(server) == "first mistake"
    for kept in server.said("restore")["kept"]:
        server.out(f"/usr/local/bin/practice restore --discard {kept} --yes")
    server.sql("DROP TABLE queue", "practice")


PARTED = """
CREATE TABLE months (at date) PARTITION BY RANGE (at);
CREATE TABLE may PARTITION OF months FOR VALUES FROM ('2026-05-01') TO ('2026-06-01');
CREATE TABLE june PARTITION OF months FOR VALUES FROM ('2026-06-01') TO ('2026-07-01');
CREATE TABLE old (at date); CREATE TABLE paid (sum int); CREATE TABLE older () INHERITS (old, paid);
INSERT INTO months VALUES ('2026-05-05'), ('2026-06-06'); INSERT INTO older VALUES ('1999-09-09', 9)
"""


def test_a_part_of_a_table_comes_back_without_it(server: Server, moment: str) -> None:
    """A partition that is there still, one that is gone, and a child of two: each alone, and no row of it in the live parent."""
    server.sql(PARTED, "practice")
    then = server.moment()
    server.sql("DROP TABLE june", "practice")
    for table in ("may", "june", "older"):
        said = server.out(f"/usr/local/bin/practice restore --to '{then}' --table practice.public.{table}")
        (side,) = (word for word in said.replace(";", " ").split() if word.startswith("restored_"))
        assert server.sql(f"SELECT count(*) FROM {side}.{table}", "practice") == "1"
        assert server.sql("SELECT (SELECT count(*) FROM months), (SELECT count(*) FROM old)", "practice") == "1|1", table
        server.sql(f"DROP SCHEMA {side} CASCADE", "practice")
    server.sql("DROP TABLE months, old, paid CASCADE", "practice")


def test_a_way_that_does_not_exist_is_said_before_anything_begins(server: Server, moment: str) -> None:
    """Neither the future, nor a time before all backups, nor a backup that is not there."""
    for words, said in (
        (("--to", "2999-01-01"), "has not come yet"),
        (("--to", "2020-01-01"), "no backup is older"),
        (("--backup", "x"), "there is no backup x"),
        (("--database", "practice"), "to which moment"),
        (("--back", "main.before-never"), "no database is kept"),
        (("--resume",), "no restore was interrupted"),
    ):
        done = server.practice("restore", "--yes", *words)
        assert (done.returncode, said in done.stdout) == (1, True), done.stdout + done.stderr
    assert server.said("restore") | {"backups": []} == {"backups": [], "copies": [], "kept": [], "unfinished": None}
