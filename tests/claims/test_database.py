"""database: who is let in and how, what is never lost, what is written down. The running server is asked, over its socket and over TLS."""

from __future__ import annotations

import json

from testinfra.host import Host

from kit.clinic import Clinic
from roles.database import POSTGRES, PSQL
from tests.claim import claim

RELOAD = "systemctl reload postgresql@17-main"
CONFIG = "/etc/postgresql/17/main"
CLUSTER = "/var/lib/postgresql/17/main"
SECRETS = "/var/lib/cabinet/secrets"
LOG = "/var/log/postgresql/postgresql-17-main.log"
OVER_TLS = "host=localhost sslmode=verify-full sslrootcert=/var/lib/cabinet/tls/authority.pem"


def asked(host: Host, sql: str, database: str = "postgres") -> list[str]:
    """The lines that the superuser, at the socket, gets for `sql`."""
    return host.check_output(f"{PSQL} -d %s -c %s", database, sql).splitlines()


def entry(clinic: Clinic, how: str, role: str | None = None, sql: str = "SELECT 'let in'", password: str | None = None) -> str:
    """A command that comes as the application does: by `how`, with its own password unless another is given."""
    secret = f'"$(cat {SECRETS}/database-{clinic.database.owner})"' if password is None else f"'{password}'"
    target = f"dbname={clinic.database.name} user={role or clinic.database.owner} {how}"
    return f'cd / && PGPASSWORD={secret} /usr/lib/postgresql/17/bin/psql -XAtqw -d "{target}" -c "{sql}" 2>&1'


def open_to_the_lan(host: Host) -> None:
    host.check_output(f"echo \"listen_addresses = '*'\" >> {CONFIG}/conf.d/network.conf; systemctl restart postgresql@17-main")


@claim("DB-01", broken_by=open_to_the_lan, symptom="0.0.0.0:5432")
def test_it_listens_on_its_socket_and_on_this_machine_alone(host: Host) -> None:
    """Of all sockets that PostgreSQL's processes have open, these are the ones that somebody can connect to."""
    listening = host.check_output("ss -Hltnxp | grep '\"postgres\"' | awk '{print $5}' | sort").split()
    assert listening == sorted(["127.0.0.1:5432", "[::1]:5432", "/var/run/postgresql/.s.PGSQL.5432"])


def everybody_trusted(host: Host) -> None:
    host.check_output(f"echo 'host all all all trust' >> {CONFIG}/pg_hba.conf; {RELOAD}")


@claim("DB-02", broken_by=everybody_trusted, symptom="trust")
def test_exactly_these_may_connect_in_exactly_these_ways(host: Host, clinic: Clinic) -> None:
    """The rules as PostgreSQL reads them, all of them; and it has read them since they were last written."""
    rules = asked(
        host, "SELECT concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address, netmask,"
        " auth_method, options, error)"
        " FROM pg_hba_file_rules ORDER BY rule_number",
    )  # fmt: skip
    name, owner = clinic.database.name, clinic.database.owner
    assert rules == [
        "local all postgres peer",
        "local replication postgres peer",
        f"local {name} {owner} scram-sha-256",
        f"hostssl {name} {owner} 127.0.0.1 255.255.255.255 scram-sha-256",
        f"hostssl {name} {owner} ::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff scram-sha-256",
    ]
    assert asked(host, f"SELECT (pg_stat_file('{CONFIG}/pg_hba.conf')).change <= pg_conf_load_time()") == ["t"], (
        "newer rules wait to be read"
    )


def second_superuser(host: Host) -> None:
    host.check_output(f"{PSQL} -c 'CREATE ROLE helper LOGIN SUPERUSER'")


@claim("DB-03", broken_by=second_superuser, symptom="helper")
def test_exactly_these_roles_with_exactly_these_rights(host: Host, clinic: Clinic) -> None:
    """Two roles beside PostgreSQL's own groups, which have no member but each other; the application owns its database and no more."""
    roles = asked(
        host, "SELECT rolname, concat_ws(' ', CASE WHEN rolsuper THEN 'super' END, CASE WHEN rolcreaterole THEN 'createrole' END,"
        " CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolreplication THEN 'replication' END,"
        " CASE WHEN rolbypassrls THEN 'bypassrls' END,"
        " CASE WHEN rolcanlogin THEN 'login' END) FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY rolname",
    )  # fmt: skip
    owner = clinic.database.owner
    assert roles == sorted([f"{owner}|login", "postgres|super createrole createdb replication bypassrls login"])
    assert asked(host, "SELECT member::regrole, roleid::regrole FROM pg_auth_members WHERE member::regrole::text !~ '^pg_'") == []
    assert asked(host, "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname ~ '^pg_'") == []
    owners = asked(host, "SELECT datname, datdba::regrole FROM pg_database ORDER BY 1")
    assert owners == sorted([f"{clinic.database.name}|{owner}", "postgres|postgres", "template0|postgres", "template1|postgres"])


def superuser_let_in_by_tcp(host: Host) -> None:
    host.check_output(f"sed -i '1i host all postgres 127.0.0.1/32 trust' {CONFIG}/pg_hba.conf; {RELOAD}")


@claim("DB-04", broken_by=superuser_let_in_by_tcp, symptom="by TCP")
def test_the_superuser_is_the_system_user_postgres_at_the_socket(host: Host, clinic: Clinic) -> None:
    """Nobody else, not root either, and not that user from anywhere else; at the socket postgres is let in."""
    said = host.run(
        f"{PSQL} -w -c 'SELECT 1' | sed 's/^1$/postgres at the socket/'\n"
        "for user in root nobody www-data; do"
        " runuser -u $user -- /usr/lib/postgresql/17/bin/psql -XAtqw -U postgres -d postgres"
        " -c 'SELECT 1' | sed \"s/^1$/$user at the socket/\"; done\n"
        f'for tls in require disable; do {POSTGRES} /usr/lib/postgresql/17/bin/psql -XAtqw'
        ' -d "host=127.0.0.1 user=postgres dbname=postgres sslmode=$tls"'
        " -c 'SELECT 1' | sed \"s/^1$/postgres by TCP, TLS $tls/\"; done"
    )
    assert said.stdout.splitlines() == ["postgres at the socket"]
    assert asked(host, "SELECT rolname FROM pg_authid WHERE rolsuper AND rolpassword IS NOT NULL") == []


def faster_by_risk(host: Host) -> None:
    host.check_output(f"{PSQL} -c 'ALTER ROLE ALL SET synchronous_commit = off'")


@claim("DB-05", broken_by=faster_by_risk, symptom="synchronous_commit")
def test_what_was_acknowledged_is_on_the_disk(host: Host, clinic: Clinic) -> None:
    """The settings that make a commit durable, in the application's own session: no role or database has others."""
    durable = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on", "wal_level": "replica", "archive_mode": "on"}
    columns = ", ".join(f"'{name}', current_setting('{name}')" for name in durable)
    live = host.check_output(entry(clinic, OVER_TLS, sql=f"SELECT json_build_object({columns})"))
    assert json.loads(live) == durable


def damage_ignored(host: Host) -> None:
    host.check_output(f"{PSQL} -c 'ALTER ROLE ALL SET ignore_checksum_failure = on'")


@claim("DB-06", broken_by=damage_ignored, symptom="ignore_checksum_failure")
def test_a_damaged_page_is_found(host: Host, clinic: Clinic) -> None:
    """Every page carries a checksum, a wrong one is an error in every session, and none was wrong so far."""
    checks = {"data_checksums": "on", "ignore_checksum_failure": "off", "zero_damaged_pages": "off"}
    columns = ", ".join(f"'{name}', current_setting('{name}')" for name in checks)
    assert json.loads(host.check_output(entry(clinic, OVER_TLS, sql=f"SELECT json_build_object({columns})"))) == checks
    assert (
        "Data page checksum version:           1" in host.check_output(f"/usr/lib/postgresql/17/bin/pg_controldata {CLUSTER}").splitlines()
    )
    assert asked(host, "SELECT datname, checksum_failures FROM pg_stat_database WHERE checksum_failures > 0") == []


def volume_forgotten(host: Host) -> None:
    host.check_output("rm /etc/systemd/system/postgresql@17-main.service.d/practice-data.conf; systemctl daemon-reload")


@claim("DB-07", broken_by=volume_forgotten, symptom="does not need the volume")
def test_everything_it_writes_lies_on_the_encrypted_volume(host: Host) -> None:
    """The cluster, its journal, its tablespaces and its log; and without the volume it does not start."""
    places = [
        CLUSTER,
        f"{CLUSTER}/pg_wal/",
        LOG,
        *asked(host, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname !~ '^pg_'"),
    ]
    assert asked(host, "SHOW data_directory") == [CLUSTER]
    kinds = {place: host.check_output("lsblk -nro TYPE $(findmnt -nvo SOURCE -T %s) | head -1", place) for place in places}
    assert kinds == dict.fromkeys(places, "crypt")
    needs = host.check_output("systemctl show -p Requires,After postgresql@17-main.service").splitlines()
    assert [line.partition("=")[0] for line in needs if "practice-data.target" in line.split("=", 1)[1].split()] == ["Requires", "After"], (
        "it does not need the volume"
    )


def password_of_somebody(host: Host) -> None:
    host.check_output(f"{PSQL} -c \"ALTER ROLE $(basename {SECRETS}/database-* | sed 's/database-//') PASSWORD 'practice'\"")


@claim("DB-08", broken_by=password_of_somebody, symptom="the right password")
def test_the_right_password_is_let_in_and_nothing_else(host: Host, clinic: Clinic) -> None:
    """By TLS and at the socket the generated password is let in; a wrong one is refused, and so is the right one without TLS."""
    good = {"by TLS": entry(clinic, OVER_TLS), "at the socket": entry(clinic, "")}
    assert [how for how, command in good.items() if host.run(command).stdout != "let in\n"] == [], "the right password was refused"
    refusals = {
        "wrong password": (entry(clinic, OVER_TLS, password="practice"), "password authentication failed"),
        "wrong password at the socket": (entry(clinic, "", password="practice"), "password authentication failed"),
        "no password": (f"env -u PGPASSWORD {entry(clinic, OVER_TLS, password='').partition('&& ')[2]}", "no password supplied"),
        "no TLS": (entry(clinic, "host=127.0.0.1 sslmode=disable"), "no encryption"),
        "another database": (entry(clinic, f"dbname=postgres {OVER_TLS}"), "no pg_hba.conf entry"),
        "another role": (entry(clinic, OVER_TLS, role="postgres"), "no pg_hba.conf entry"),
    }
    answers = {what: host.run(command).stdout for what, (command, _) in refusals.items()}
    assert {what: said for what, said in answers.items() if refusals[what][1] not in said} == {}


def stored_the_old_way(host: Host) -> None:
    host.check_output(
        f"{PSQL} -c \"SET password_encryption = md5; ALTER ROLE $(basename {SECRETS}/database-* | cut -c10-) PASSWORD 'practice'\""
    )


@claim("DB-09", broken_by=stored_the_old_way, symptom="md5")
def test_of_a_password_only_a_salted_verifier_is_stored(host: Host) -> None:
    """Each stored password is a SCRAM verifier; one that a person sets now becomes one too, with more rounds."""
    stored = asked(host, "SELECT rolname, left(rolpassword, 18) FROM pg_authid WHERE rolpassword IS NOT NULL")
    assert stored, "control: no role has a password"
    assert [line for line in stored if line.partition("|")[2] != "SCRAM-SHA-256$4096"] == []
    new = asked(
        host, "BEGIN; CREATE ROLE probe PASSWORD 'thirteen words'; SELECT rolpassword FROM pg_authid WHERE rolname = 'probe'; ROLLBACK"
    )
    assert [line for line in new if not line.startswith("SCRAM-SHA-256$65536:")] == []


def public_let_in(host: Host) -> None:
    host.check_output(
        f"{PSQL} -d $({PSQL} -c \"SELECT max(datname) FROM pg_database WHERE datdba <> 10\") -c 'GRANT ALL ON SCHEMA public TO PUBLIC'"
    )


@claim("DB-10", broken_by=public_let_in, symptom="schema public")
def test_a_role_that_was_granted_nothing_can_do_nothing(host: Host, clinic: Clinic) -> None:
    """A stranger, who exists for as long as it takes to ask, may connect to no database and use no schema or table."""
    allowed = asked(
        host, "BEGIN; CREATE ROLE stranger;"
        " SELECT concat_ws(' ', what, 'database', datname) FROM pg_database, unnest(ARRAY['CONNECT', 'TEMPORARY', 'CREATE']) what"
        " WHERE has_database_privilege('stranger', oid, what)"
        " UNION ALL SELECT concat_ws(' ', what, 'schema', nspname) FROM pg_namespace, unnest(ARRAY['USAGE', 'CREATE']) what"
        " WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND has_schema_privilege('stranger', oid, what)"
        " UNION ALL SELECT concat_ws(' ', what, 'table', oid::regclass) FROM pg_class, unnest("
        "ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) what"
        " WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND relnamespace::regnamespace::text !~ '^(pg_|information_schema$)'"
        " AND has_table_privilege('stranger', oid, what); ROLLBACK",
        clinic.database.name,
    )  # fmt: skip
    assert allowed == []
    assert asked(host, f"SELECT has_database_privilege('{clinic.database.owner}', '{clinic.database.name}', 'CONNECT')") == ["t"], "control"


# Nothing of this stays.
CHANGES = r"""
BEGIN;
CREATE TEMP TABLE probe (note text);
INSERT INTO probe VALUES ($1) \bind 'canary 4711' \g
ALTER ROLE CURRENT_USER PASSWORD 'SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy';
ROLLBACK;
"""


def audit_switched_off(host: Host) -> None:
    host.check_output(f"{PSQL} -c \"ALTER ROLE ALL SET pgaudit.log = 'none'\"")


@claim("DB-11", broken_by=audit_switched_off, symptom="DDL,CREATE TABLE")
def test_it_writes_down_who_came_and_what_changed_but_not_what_was_entered(host: Host, clinic: Clinic) -> None:
    """Log-ins, refusals, and changes of tables and roles are in the log; a parameter, a password and what is stored of one are not."""
    session = entry(clinic, OVER_TLS, sql="@").replace('-c "@"', "")
    wrong = entry(clinic, OVER_TLS, password="practice")
    since = int(host.check_output(f"stat -c %s {LOG}"))
    host.check_output(f"{session} <<'SQL'\n{CHANGES}\nSQL\n{wrong} || true; sleep 0.2")
    log = host.check_output(f"tail -c +{since + 1} {LOG}")
    wanted = [
        "connection received: host=",
        f"connection authorized: user={clinic.database.owner} database={clinic.database.name}",
        "SSL enabled (protocol=TLSv1.3",
        "DDL,CREATE TABLE",
        "WRITE,INSERT",
        "ROLE,ALTER ROLE",
        "disconnection: session time",
        f'password authentication failed for user "{clinic.database.owner}"',
    ]
    assert [line for line in wanted if line not in log] == []
    assert "canary" not in log, "a parameter was logged"
    leaks = host.run(
        f"grep -rlF -e 'SCRAM-SHA-256$' -e \"$(cat {SECRETS}/database-{clinic.database.owner})\" /var/log/postgresql"
    ).stdout.split()
    assert leaks == []


def secrets_shared(host: Host) -> None:
    host.check_output(f"chmod 755 {SECRETS}; chmod 644 {SECRETS}/database-*")


@claim("DB-12", broken_by=secrets_shared, symptom="readable by")
def test_the_password_is_roots_secret(host: Host, clinic: Clinic) -> None:
    """The password lies in one file, and nobody but root can read it or even see it; it is as long as 256 random bits are."""
    path = f"{SECRETS}/database-{clinic.database.owner}"
    rights = host.check_output(f"stat -c '%n %a %U:%G' {SECRETS} {SECRETS}/database-*").splitlines()
    readers = [user for user in ("postgres", "www-data", "nobody") if host.run("runuser -u %s -- cat %s", user, path).rc == 0]
    assert readers == [], f"{path} is readable by {readers}"
    assert rights == [f"{SECRETS} 700 root:root", f"{path} 600 root:root"]
    assert len(host.check_output("cat %s", path)) == 43


def sessions_for_ever(host: Host) -> None:
    host.check_output(f"{PSQL} -c 'ALTER ROLE ALL SET idle_session_timeout = 0'")


@claim("DB-13", broken_by=sessions_for_ever, symptom="idle_session_timeout")
def test_a_session_left_alone_ends(host: Host, clinic: Clinic) -> None:
    """The limits of the application's own session; and one with a limit of a tenth of a second really ends."""
    limits = {"idle_session_timeout": "10min", "idle_in_transaction_session_timeout": "5min", "authentication_timeout": "30s"}
    columns = ", ".join(f"'{name}', current_setting('{name}')" for name in limits)
    assert json.loads(host.check_output(entry(clinic, OVER_TLS, sql=f"SELECT json_build_object({columns})"))) == limits
    waiting = (
        entry(clinic, OVER_TLS, sql="@").replace('-c "@"', "").replace("PGPASSWORD", "PGOPTIONS='-c idle_session_timeout=100' PGPASSWORD")
    )
    # psql itself sleeps, so that the pause begins once the session is there, however slow the machine.
    said = host.run(f"printf 'SELECT 1;\\n\\\\! sleep 1\\nSELECT 2;\\n' | ( {waiting} )").stdout
    assert "terminating connection due to idle-session timeout" in said


def set_behind_our_back(host: Host) -> None:
    host.check_output(f"echo 'log_connections = off' >> {CLUSTER}/postgresql.auto.conf; {RELOAD}; sleep 0.5")


@claim("DB-14", broken_by=set_behind_our_back, symptom="postgresql.auto.conf")
def test_no_setting_comes_from_anywhere_but_the_files_we_wrote(host: Host) -> None:
    """Whole set of sources; nothing waits for a restart, nothing is set for one role or database, and ALTER SYSTEM is refused."""
    files = ["postgresql.conf", *(f"conf.d/{topic}.conf" for topic in ("backup", "durable", "log", "network", "passwords", "sessions"))]
    sources = asked(
        host,
        "SELECT DISTINCT coalesce(sourcefile, source) FROM pg_settings"
        " WHERE source NOT IN ('default', 'override', 'client', 'environment variable')",
    )
    assert sorted(set(sources) - {f"{CONFIG}/{file}" for file in files}) == []
    assert asked(host, "SELECT name, sourcefile, error FROM pg_file_settings WHERE NOT applied") == []
    assert asked(host, "SELECT name FROM pg_settings WHERE pending_restart") == []
    assert asked(host, "SELECT setrole, setdatabase, setconfig FROM pg_db_role_setting") == []
    assert "ALTER SYSTEM is not allowed" in host.run(f"{PSQL} -c 'ALTER SYSTEM SET fsync = off'").stderr
