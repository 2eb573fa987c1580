"""Going back: rehearsed every night, and done beside what is live; what was there can be returned to."""

from __future__ import annotations

import json
import shlex

from testinfra.host import Host

from roles.database import PSQL
from tests.claim import claim
from tests.claims.test_backup import CONF, alarms, archive_now, backups, eventually, sql


def nights_without_a_drill(host: Host) -> None:
    host.check_output("systemctl stop practice-drill.timer")


@claim("BAK-13", broken_by=nights_without_a_drill, symptom="practice-drill.timer")
def test_the_newest_backup_is_restored_on_trial_every_night(host: Host) -> None:
    """The timer waits for the night; what it starts restores, compares, checks, keeps what came of it, and leaves nothing behind."""
    said = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersCalendar,Persistent practice-drill.timer")
    assert all(word in said for word in ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=*-*-* 0", "Persistent=yes")), (
        f"practice-drill.timer: {said}"
    )
    before = json.loads(host.check_output("practice drill --history --json"))
    done = host.run("practice drill --json")
    assert done.rc == 0, f"the newest backup was not proved: {done.stdout}"
    drills = json.loads(host.check_output("practice drill --history --json"))
    assert drills[-1] == json.loads(done.stdout) and drills[-1] not in before
    assert drills[-1]["label"] == backups(host)[-1]["label"] and drills[-1]["tables"] > 0 < drills[-1]["restore_seconds"]
    assert host.run("test -e /var/lib/postgresql/scratch").rc == 1, "something was left behind"


def years_without_a_drill(host: Host) -> None:
    host.check_output("sed -i 's/\"drill_days\": [0-9]*/\"drill_days\": 999/' /etc/cabinet/practice.json")


@claim("BAK-14", broken_by=years_without_a_drill, symptom="goes unnoticed")
def test_a_drill_that_fails_or_is_missed_raises_an_alarm(host: Host) -> None:
    """One that cannot write its mark fails, and shows at once; a history that ends four days ago is an alarm, and none once it is right."""
    unit, history = "practice-drill.service", "/var/lib/cabinet/drills.json"
    old = {"ok": True, "label": "x", "restore_seconds": 1, "check_seconds": 1, "seconds": 2, "bytes": 0, "tables": 0, "rows": 0}
    old["at"] = float(host.check_output("date +%s")) - 4 * 86400
    host.check_output(f"touch {history} && cp -p {history} {history}.kept")
    host.check_output(f"echo {shlex.quote(json.dumps([old]))} > {history} && systemctl start practice-watch.service")
    try:
        assert "No backup was restored on trial" in alarms(host).get("drill", {}).get("text", ""), "a missed drill goes unnoticed"
        sql(host, "CREATE SCHEMA IF NOT EXISTS cabinet; DROP TABLE IF EXISTS cabinet.canary; CREATE TABLE cabinet.canary ()")
        assert host.run("practice drill").rc == 1, "control: the drill did not fail"
        assert eventually(host, f"practice alarm list | grep -q '\"unit:{unit}\"'", 8), "no alarm was raised"
    finally:
        sql(host, "DROP TABLE IF EXISTS cabinet.canary")
        host.check_output(f"mv -f {history}.kept {history}; test -s {history} || rm {history}; systemctl reset-failed {unit}")
        host.check_output("systemctl start practice-watch.service")
    assert {"drill", f"unit:{unit}"} & set(alarms(host)) == set(), "the alarm stays although all is right"


def restored(host: Host, arguments: str) -> None:
    """Go back; nobody is asked."""
    done = host.run(f"practice restore --yes {arguments}")
    assert done.rc == 0, f"it did not come back: {done.stdout}"


def kept(host: Host) -> list[str]:
    """What earlier restores have left to return to."""
    done = host.run("practice restore --json")
    assert done.rc == 0, f"nothing can be gone back to: {done.stdout}"
    return json.loads(done.stdout)["kept"]


def key_mislaid(host: Host) -> None:
    host.check_output("rm /etc/pgbackrest/conf.d")


@claim("BAK-15", broken_by=key_mislaid, symptom="nothing can be gone back to")
def test_one_database_goes_back_and_can_return(host: Host) -> None:
    """Asked, and refused unless told so; then the database is what it was, another one is not, and back again."""
    assert kept(host) == [], "control: something is kept already"
    look = f"{PSQL} -d probe_back -c 'SELECT note FROM visits'"
    sql(host, "DROP TABLE IF EXISTS probe_other; CREATE TABLE probe_other AS SELECT 'before' AS note")
    try:
        sql(host, "CREATE DATABASE probe_back TEMPLATE template0")
        host.check_output(f"{PSQL} -d probe_back -c \"CREATE TABLE visits AS SELECT 'before' AS note\"")
        moment = sql(host, "SELECT clock_timestamp()")
        host.check_output(f"{PSQL} -d probe_back -c \"UPDATE visits SET note = 'after'\"")
        sql(host, "UPDATE probe_other SET note = 'after'")
        archive_now(host)
        goal = f"--to {shlex.quote(moment)} --database probe_back"
        asked = host.run(f"echo no | practice restore {goal}")
        assert (asked.rc, "will be replaced" in asked.stderr) == (1, True), "it does not ask"
        assert host.check_output(look) == "after", "it was replaced although nobody agreed"
        restored(host, goal)
        assert host.check_output(look) == "before"
        assert sql(host, "SELECT note FROM probe_other") == "after", "another database was touched"
        (name,) = kept(host)
        restored(host, f"--back {name}")
        assert host.check_output(look) == "after"
    finally:
        for name in kept(host):
            host.run(f"practice restore --yes --discard {name}")
        sql(host, "DROP TABLE probe_other")
        sql(host, "DROP DATABASE IF EXISTS probe_back WITH (FORCE)")


def repository_elsewhere(host: Host) -> None:
    host.check_output(f"sed -i 's|^repo1-path=.*|repo1-path=/srv/nowhere|' {CONF}")


@claim("BAK-16", broken_by=repository_elsewhere, symptom="nothing can be gone back to")
def test_one_table_comes_back_beside_the_live_one(host: Host) -> None:
    """In a schema of its own, with the rows of then; the live one keeps those of now."""
    assert backups(host) != [], "nothing can be gone back to"
    sql(host, "DROP TABLE IF EXISTS public.probe_table; CREATE TABLE public.probe_table AS SELECT 'before' AS note")
    try:
        moment = sql(host, "SELECT clock_timestamp()")
        sql(host, "UPDATE public.probe_table SET note = 'after'")
        archive_now(host)
        restored(host, f"--to {shlex.quote(moment)} --table postgres.public.probe_table")
        side = sql(host, "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'restored_%'")
        assert sql(host, f"SELECT note FROM {side}.probe_table") == "before"
        assert sql(host, "SELECT note FROM public.probe_table") == "after", "the live table was touched"
        sql(host, f"DROP SCHEMA {side} CASCADE")
    finally:
        sql(host, "DROP TABLE public.probe_table")
