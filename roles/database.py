"""database: PostgreSQL answers the application on this server and nobody else, loses nothing, and says who came.

Claims: DB-01 to DB-14.  Changes from Debian defaults: a cluster with checksums on the encrypted volume, made by us; one
application role beside postgres; TLS or the socket; PUBLIC has nothing; no ALTER SYSTEM; DDL, roles and writes are logged.
"""

from __future__ import annotations

from typing import Any

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from kit.render import rendered
from roles.certificates import SECRETS, certificates

PACKAGES = ["postgresql-17", "postgresql-17-pgaudit"]

CONFIG = "/etc/postgresql/17/main"
CLUSTER = "/var/lib/postgresql/17/main"
# Whether somebody has set something by ALTER SYSTEM.
ALTER_SYSTEM = f'grep -qvE "^ *(#|$)" {CLUSTER}/postgresql.auto.conf'
UNIT = "postgresql@17-main.service"
TOOLS = "/usr/local/lib/cabinet/database"
# A look is no log-in: without PAM. And psql itself: Debian's of that name is a Perl script that starts it, five times as slowly.
POSTGRES = "setpriv --reuid=postgres --regid=postgres --init-groups"
PSQL = f"cd / && {POSTGRES} /usr/lib/postgresql/17/bin/psql -XAtq -v ON_ERROR_STOP=1"

# Each file of settings, and the claim that it carries; backup.conf beside them belongs to roles/backup.py.
SETTINGS = {"network": "DB-01", "durable": "DB-05", "passwords": "DB-09", "log": "DB-11", "sessions": "DB-13"}
# Of the cluster's configuration directory nothing else may lie in it: PostgreSQL reads whatever ends in .conf there.
KNOWN = ["conf.d", "postgresql.conf", "pg_hba.conf", "pg_ident.conf", "conf.d/backup.conf", *(f"conf.d/{topic}.conf" for topic in SETTINGS)]


@deploy("database")
def database() -> None:
    """Describe, make, start, and keep to the description."""
    clinic = this_clinic()
    kit.directory(name="DB-12 keep secrets from everybody but root", path=SECRETS, mode="700")
    certificates(clinic, "BASE", "BASE")
    settings(clinic)
    cluster()
    people(clinic)


def settings(clinic: Clinic) -> None:
    """Whole files that PostgreSQL can read and not write."""
    for topic, claim in SETTINGS.items():
        owned(f"{claim} settings: {topic}", f"conf.d/{topic}.conf", src=f"database/conf.d/{topic}.conf")
    owned("DB-14 settings: everything else", "postgresql.conf", template="database/postgresql.conf.j2", timezone=clinic.timezone)
    owned(
        "DB-02 say who may connect how",
        "pg_hba.conf",
        template="database/pg_hba.conf.j2",
        database=clinic.database.name,
        role=clinic.database.owner,
    )
    owned(
        "DB-04 let nobody act under another name",
        "pg_ident.conf",
        content="# No maps: a system user is the database role of the same name.\n",
    )


def owned(name: str, path: str, **source: Any) -> None:
    """A file of the cluster's configuration: root writes it, postgres reads it, nobody else does."""
    kit.config_file(name=name, dest=f"{CONFIG}/{path}", mode="640", group="postgres", **source)


def cluster() -> None:
    """The cluster is made once, on the volume; then it runs, and runs what is described."""
    for tool in ("make-cluster", "settle", "password"):
        kit.config_file(name=f"BASE be able to {tool}", dest=f"{TOOLS}/{tool}", src=f"database/{tool}", mode="755")
    kit.script(
        name="DB-06 make a cluster that checks every page",
        unless=f'test "$(cat {CLUSTER}/PG_VERSION)" = 17',
        run=f"{TOOLS}/make-cluster",
    )
    kit.config_file(
        name="DB-07 need the encrypted volume", dest=f"/etc/systemd/system/{UNIT}.d/practice-data.conf", src="database/practice-data.conf"
    )
    known = " ".join(f"! -path {CONFIG}/{path}" for path in KNOWN)
    # A restore writes how it goes on into postgresql.auto.conf: while recovery.signal is there, it is not ours to clear.
    kit.script(
        name="DB-14 leave no place from which another setting could come",
        unless=f'test -z "$(find {CONFIG} -mindepth 1 {known})"\n'
        f"test -e {CLUSTER}/recovery.signal || ! {ALTER_SYSTEM}",
        run=f"set_aside $(find {CONFIG} -mindepth 1 {known})\nfind {CONFIG} -mindepth 1 {known} -delete\n"
        f"if ! test -e {CLUSTER}/recovery.signal && {ALTER_SYSTEM}; then set_aside {CLUSTER}/postgresql.auto.conf\n"
        f"runuser -u postgres -- truncate -s 0 {CLUSTER}/postgresql.auto.conf; fi",
    )
    kit.unit(name="DB-07 start the database", unit=UNIT)


def people(clinic: Clinic) -> None:
    """Who exists, what belongs to whom, and who may do what."""
    name, owner = clinic.database.name, clinic.database.owner
    agrees("DB-03 have exactly these roles", "postgres", "roles", owner=owner)
    # After the roles: a setting of a role would look like one that the server does not follow.
    kit.script(name="DB-14 run what the files say", unless=f"{TOOLS}/settle --check", run=f"{TOOLS}/settle")
    sorting = "" if clinic.locale == "C.UTF-8" else f" LOCALE_PROVIDER icu ICU_LOCALE '{clinic.locale.split('.')[0].replace('_', '-')}'"
    kit.script(
        name="DB-03 give the application a database of its own",
        unless=f'test "$({PSQL} -c "SELECT datdba::regrole FROM pg_database WHERE datname = \'{name}\'")" = {owner}',
        run=f"{PSQL} <<'SQL'\nSELECT 'CREATE DATABASE \"{name}\" TEMPLATE template0{sorting.replace(chr(39), chr(39) * 2)}'\n"
        f' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = \'{name}\') \\gexec\nALTER DATABASE "{name}" OWNER TO "{owner}";\nSQL',
    )
    agrees("DB-10 take from PUBLIC what it was given", name, "public")
    kit.script(
        name="DB-11 log what changes the database's shape",
        unless=f"{PSQL} -d {name} -c \"SELECT 1 FROM pg_extension WHERE extname = 'pgaudit'\" | grep -q 1",
        run=f"{PSQL} -d {name} -c 'CREATE EXTENSION pgaudit'",
    )
    kit.script(name="DB-08 give the application its password", unless=f"{TOOLS}/password --check {owner}", run=f"{TOOLS}/password {owner}")


def agrees(name: str, database: str, topic: str, **data: str) -> None:
    """The query `topic`-wrong finds nothing in `database`; otherwise `topic`-right is carried out."""
    wrong, right = (rendered(f"database/{topic}-{part}.sql.j2", **data) for part in ("wrong", "right"))
    kit.script(
        name=name,
        unless=f"found=$({PSQL} -d {database} <<'SQL'\n{wrong}\nSQL\n) && test -z \"$found\"",
        run=f"{PSQL} -d {database} <<'SQL'\n{right}\nSQL",
    )
