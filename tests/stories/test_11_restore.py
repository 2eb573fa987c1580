"""Going back: everything in the database is what it was at a moment, what was there is kept, and the way back leads to it."""

from __future__ import annotations

import shlex
import time

from testinfra.host import Host

from tests.claims.test_backup import archive_now, eventually, kept, restored, sql

NOTES = "SELECT string_agg(note, ' ' ORDER BY note) FROM probe_restore"


def test_everything_goes_back_and_returns(host: Host) -> None:
    """The service is the ordinary one, backups and drills go on in the new history, and in the one after the return."""
    assert kept(host) == [], "control: something is kept already"
    sql(host, "DROP TABLE IF EXISTS probe_restore; CREATE TABLE probe_restore AS SELECT 'before' AS note")
    try:
        moment = sql(host, "SELECT clock_timestamp()")
        sql(host, "INSERT INTO probe_restore VALUES ('mistake')")
        began = time.monotonic()
        restored(host, f"--to {shlex.quote(moment)}")
        print(f"\neverything went back in {time.monotonic() - began:.1f} s")
        assert sql(host, NOTES) == "before"
        assert host.check_output("systemctl is-active postgresql@17-main.service") == "active"
        archive_now(host)
        assert eventually(host, "practice backup --check", 300), "the new history is not backed up"
        (name,) = kept(host)
        restored(host, f"--back {name}")
        assert sql(host, NOTES) == "before mistake", "what was there before is lost"
        archive_now(host)
        assert eventually(host, "practice backup --check", 300), "the history that was returned to is not backed up"
        assert host.run("practice drill").rc == 0, "the history that was returned to cannot be restored"
    finally:
        for name in kept(host):
            host.run(f"practice restore --yes --discard {name}")
        sql(host, "DROP TABLE probe_restore")
    assert host.check_output("ls /var/lib/postgresql/17") == "main"
