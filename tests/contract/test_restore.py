"""Going back, with Debian's own PostgreSQL and pgBackRest: to a moment, and back again, also when the power is cut in between."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

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
