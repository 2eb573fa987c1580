"""A new server from nothing: a practice is lost, and comes back on a second machine, from the copy outside or a medium, and the kit."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from pyinfra_openssh.master import Master

from kit import restore
from kit.host import as_admin
from kit.paths import ROOT
from kit.sshd import Sshd, by_master
from practice.letters import written
from roles.backup import CLUSTER, REPOSITORY
from roles.offsite import AUTHORITY, CONFIG, LOGIN, PASSWORD
from roles.recovery import CONFIG as PARTS
from roles.storage import KEY
from tests.outside import CREDENTIALS, SEND, B, a_vault, beside, prepared
from tests.practiceserver import Server, new_server, practice_server
from tests.restserver import ADDRESS
from tests.restserver import Server as Vault
from tests.sticks import STICKS, Sticks

MONTH = time.strftime("%Y-%m", time.gmtime())
VOLUME_KEY = next(line for line in (ROOT / "files/storage/format-volume").read_text().splitlines() if line.startswith("head -c 32"))
# What was born on the one that is lost.
BORN = f"""set -eu
useradd --uid 1500 --no-create-home amina; useradd --uid 1501 --no-create-home gone
install -d -m 750 -o amina -g amina /srv/letters
umask 077
printf 'dear doctor' >/srv/letters/nadia; chown amina:amina /srv/letters/nadia; chmod 640 /srv/letters/nadia
printf scan >/srv/image; chown gone:postgres /srv/image; chmod 4664 /srv/image; ln -s image /srv/newest; chown -h amina /srv/newest
key={KEY}; {VOLUME_KEY}
printf authority >/var/lib/cabinet/secrets/authority.key
printf certificate >/var/lib/cabinet/tls/authority.pem; chmod 644 /var/lib/cabinet/tls/authority.pem
cd /var/lib/cabinet/tls; printf leaf >database.pem; chgrp postgres database.pem; chmod 640 database.pem
install -d -m 700 /etc/cabinet/totp; printf seed >/etc/cabinet/totp/amina; printf old >/etc/cabinet/revision
printf 'practice: Cabinet Haddad  # as it was written\n' >/etc/cabinet/clinic.yaml
{CREDENTIALS}"""
# Whoever was root on the lost server, at the repository that it sent to.
INTRUDER = f"""export RESTIC_PASSWORD="$(cat {PASSWORD})" RESTIC_REST_PASSWORD="$(cat {LOGIN})" RESTIC_CACERT={AUTHORITY}
export RESTIC_REST_USERNAME=haddad RESTIC_CACHE_DIR=/root/cache
export RESTIC_REPOSITORY="rest:$(python3 -c 'import json; print(json.load(open("{CONFIG}"))["url"])')/haddad/{MONTH}/"
"""
# An index that is none, or more keys than restic tries, none of which opens anything.
SPOILS = """import base64, hashlib, json, os, ssl, sys, urllib.request
login = base64.b64encode(f"haddad:{os.environ['RESTIC_REST_PASSWORD']}".encode()).decode()
trusted = ssl.create_default_context(cafile=os.environ["RESTIC_CACERT"])
false = {"created": "2026-01-01T00:00:00Z", "username": "x", "hostname": "x", "kdf": "scrypt", "N": 16, "r": 8, "p": 1}
for _ in range(30 if sys.argv[1] == "keys" else 1):
    text = json.dumps(false | {word: base64.b64encode(os.urandom(64)).decode() for word in ("salt", "data")}).encode()
    where = os.environ["RESTIC_REPOSITORY"].removeprefix("rest:") + f"{sys.argv[1]}/{hashlib.sha256(text).hexdigest()}"
    headers = {"Authorization": f"Basic {login}", "Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(where, text, headers), context=trusted)
"""
# Killed as soon as something is seen.
CUT = "/usr/local/bin/practice rebuild --from offsite & until [ -e {} ]; do sleep 0.01; done; kill -9 $!"
# What the deploy does between the two calls.
DEPLOY = "set -eu; cp /etc/machine-id /backup/; useradd --uid 1700 --no-create-home amina; systemctl start postgresql@17-main.service"
STAMP = "echo new >/etc/cabinet/revision"


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """The host outside."""
    return a_vault(tmp_path_factory.mktemp("vault"))


@pytest.fixture(scope="module")
def stick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The medium that the practice writes, with what was entered after it was sent."""
    return tmp_path_factory.mktemp("stick") / "stick.tar"


@pytest.fixture(scope="module")
def survivor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The backup disk, with what was entered up to the end."""
    return tmp_path_factory.mktemp("disk") / "backup.tar"


@pytest.fixture(scope="module")
def kit(vault: Vault, stick: Path, survivor: Path) -> str:
    """A practice that has sent twice, with what was entered between; it is gone. What its recovery kit says."""
    with practice_server() as old:
        prepared(old, vault)
        old.out(f"umask 077; for path in {B} {PASSWORD}; do head -c 48 /dev/urandom | base64 -w 0 >$path; done")
        old.out(BORN)
        # As the roles make them: pgBackRest's key is the one of the kit.
        key = old.out(f"cat {B}")
        old.out("rm -rf /backup/pgbackrest/*; printf '[global]\\nrepo1-cipher-pass=%s\\n' >/etc/pgbackrest/conf.d/key.conf " + key)
        old.out("cd /; setpriv --reuid=postgres --regid=postgres --init-groups pgbackrest --stanza=main stanza-create")
        old.sql("CREATE DATABASE practice TEMPLATE template0")
        old.sql("CREATE EXTENSION pgaudit; CREATE TABLE visits (id serial PRIMARY KEY, note text)", "practice")
        old.sql("INSERT INTO visits (note) VALUES ('first')", "practice")
        old.out("systemctl start practice-backup@full.service")
        with beside(old, vault):
            old.out(SEND)
            old.sql("INSERT INTO visits (note) VALUES ('second')", "practice")
            old.moment()
            old.out(SEND)
            old.sql("INSERT INTO visits (note) VALUES ('third')", "practice")
            old.moment()
        with Sticks(old.place) as media:
            old.out("echo '{\"days\": [\"monday\"], \"never\": []}' >/etc/cabinet/media.json")
            name = media.medium("stick1")
            media.done(f"practice media enrol monday stick1; practice media run {name}")
            media.pull(name)
            with stick.open("wb") as file:
                subprocess.run(old.place.inside(f"tar -cSf - -C {STICKS} stick1"), stdout=file, check=True)
        with survivor.open("wb") as file:
            subprocess.run(old.place.inside("tar -cf - -C / backup"), stdout=file, check=True)
        return old.out("/usr/local/bin/practice recovery-kit --text")


FROM_MEDIUM = "practice rebuild --from media"


def rebuild(server: Server, *words: str) -> subprocess.CompletedProcess[str]:
    """As `./cabinet restore` calls it."""
    return server.practice("rebuild", "--from", "offsite", *words)


def put_back(server: Server, kit: str) -> None:
    """The keys, and what the roles make of them."""
    server.out("/usr/local/bin/practice recovery-kit --put-back", kit)
    server.out(f"printf '[global]\\nrepo1-cipher-pass=%s\\n' \"$(cat {B})\" >/etc/pgbackrest/conf.d/key.conf")


def ten_days_later(vault: Vault, home: Path) -> Vault:
    """The host as the practice has left it, which sent nothing more; another one of the same, for what is sent there after that."""
    there = a_vault(home)
    subprocess.run(as_admin(["cp", "-a", f"{vault.store}/.", f"{there.store}/"]), check=True)
    subprocess.run(as_admin(["find", str(there.store), "-exec", "touch", "-d", "10 days ago", "{}", "+"]), check=True)
    return there


def as_it_was(there: Vault, days: float) -> str:
    """What the host calls the repository of the month as it was so many days ago, once the technician has had it shown there."""
    until = int(time.time() - days * 86400)
    show = f"from pathlib import Path; from tests.restserver import keeper; host = keeper(Path({str(there.home)!r})); "
    show += f"print(host.shown({there.account!r}, {MONTH!r}, {until}).name)"
    done = subprocess.run(as_admin([sys.executable, "-c", show]), cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def forged(server: Server) -> dict[str, str]:
    """Whoever has all that the practice had sends a set like its own, newer than any to come soon: the snapshots, by their kind."""
    server.out("mkdir -p /root/false; echo 'pay us' >/root/false/nadia; date -d '30 minutes' '+%F %T' >/root/soon")
    found: dict[str, str] = {}
    for kind in ("database", "changes", "documents", "configuration"):
        tags = f"--tag={kind} --tag=with:{found.get('database', '')[:8]}"
        said = server.out(f"{INTRUDER} restic backup --json --host=practice --time=\"$(cat /root/soon)\" {tags} /root/false")
        found[kind] = json.loads(said.splitlines()[-1])["snapshot_id"]
    return found


def chosen(server: Server) -> dict[str, Any]:
    """What would be taken of all that lies outside."""
    ask = "import json, sys; sys.path.insert(0, '/usr/local/lib/cabinet'); from practice import fetch; print(json.dumps(fetch.newest()))"
    return json.loads(server.out(shlex.join(["python3", "-c", ask])))


def test_it_comes_back_as_it_was_before_an_intruder(vault: Vault, kit: str, tmp_path: Path) -> None:
    """The newest set is forged, and then nothing opens; out of the repository as it was all comes back, and what follows goes elsewhere."""
    there = ten_days_later(vault, tmp_path)
    with new_server() as new:
        prepared(new, there)
        put_back(new, kit)
        with beside(new, there):
            false = forged(new)
            assert chosen(new)["snapshots"] == false, "control: whose is the newest"
            new.out(f"{INTRUDER} python3 - index", SPOILS)
            gone = rebuild(new)
            assert gone.returncode == 1 and "restic restore: " in gone.stderr, gone
            assert json.loads(new.out("cat /var/lib/cabinet/rebuild.json"))["generation"] == MONTH, "control: it had begun"
            new.out(f"{INTRUDER} python3 - keys", SPOILS)
            assert "has no repository 2026-01.as-of" in rebuild(new, "--repository", "2026-01.as-of-20260105T080000Z").stderr
            name = as_it_was(there, 5)
            first = rebuild(new, "--repository", name)
            assert first.returncode == 3 and f"from the repository {name}, " in first.stdout, first
            assert f"already, from the repository {name}" in rebuild(new, "--repository", MONTH).stderr
            key = new.out(f"cat {PASSWORD}")
            new.out(f"{DEPLOY}; {STAMP}")
            last = rebuild(new, "--repository", name)
            assert last.returncode == 0 and "another key, part C" in last.stdout, last
            assert new.sql("SELECT string_agg(note, ' ' ORDER BY id) FROM visits", "practice") == "first second"
            assert new.out("cd /srv; find . ! -type d | sort; cat letters/nadia image newest") == (
                "./image\n./letters/nadia\n./newest\ndear doctorscanscan"
            )
            assert new.out("cat /var/lib/cabinet/secrets/authority.key /etc/cabinet/totp/amina") == "authorityseed"
            assert new.out(f"cat {PASSWORD}; stat -c '%U %a' {PASSWORD}").split() != [key, "root", "600"]
            assert new.out(f"stat -c '%U %a' {PASSWORD}") == "root 600"
            new.out(CREDENTIALS + SEND)
            assert (after := chosen(new))["generation"] == f"{MONTH}-2" and after["at"] < time.time() + 60, "it is sent to the intruder's"
            assert [why.split(":")[0] for why in after["unread"]] == [MONTH], "more false keys than restic tries are no other password"


def shown(heading: str) -> list[str]:
    """The pieces of shell that docs/recovery.md shows below a heading."""
    below = (ROOT / "docs/recovery.md").read_text().split(f"# {heading}\n")[1].split("\n#")[0]
    pieces = [[line.strip() for line in piece.splitlines() if line.startswith("    ")] for piece in below.split("\n\n")]
    return ["\n".join(piece) for piece in pieces if piece]


def test_the_clinic_file_comes_out_of_a_copy_with_the_kit_alone(vault: Vault, kit: str, stick: Path) -> None:
    """By the very lines of docs/recovery.md, on a computer that knows nothing of the practice: from outside, and from a medium."""
    outside, medium = shown("Where the laptop is gone as well")
    names = {"vault.atlas.example:8443": f"{ADDRESS}:{vault.port}", "2026-11": MONTH, "/dev/sdb": "/dev/{name}"}
    assert [name for name in names if name not in outside + medium] == []
    names |= {"--key C": "--key C </root/page", "--key D": "--key D </root/page", "--key B": "--key B </root/page"}
    for name, here in names.items():
        outside, medium = outside.replace(name, here), medium.replace(name, here)
    tree = "set -eu; cd /usr/local/lib/cabinet; mkdir -p clinics; rm -f clinics/*\n"
    wanted = "practice: Cabinet Haddad  # as it was written"
    with new_server() as anywhere:
        anywhere.out("umask 077; cat >/root/page", kit)
        anywhere.out("cat >/usr/local/lib/cabinet/authority.pem", vault.authority.read_text())
        with beside(anywhere, vault):
            assert anywhere.out(f"{tree}{outside}; cat clinics/haddad.yaml") == wanted
            believed = outside.replace("/etc/cabinet/clinic.yaml", AUTHORITY)
            assert anywhere.out(f"{tree}{believed}; cat clinics/haddad.yaml") == vault.authority.read_text().strip()
            refused = anywhere.run(f"{tree}{outside.replace('--key C', '--key B')}")
            assert refused.returncode and "wrong password" in refused.stderr, refused
        with Sticks(anywhere.place) as media:
            anywhere.out(f"mkdir {STICKS}; tar -xf - -C {STICKS}", stick.read_bytes())
            name = media.plug("stick1")
            # What stands in for a device mapper asks for the password where a server has it.
            opens = f"cryptsetup open --test-passphrase --key-file - /dev/{name}"
            media.done(f"cd /usr/local/lib/cabinet; python3 -m practice recovery-kit --key B </root/page | /usr/sbin/{opens}")
            media.done(f"mkdir -p {Path(B).parent}; cd /usr/local/lib/cabinet; python3 -m practice recovery-kit --key B </root/page >{B}")
            assert media.done(f"{tree}{medium.format(name=name)}\ncat clinics/haddad.yaml") == wanted
            assert media.run("test -e /dev/mapper/medium").returncode, "it is still open"
            media.pull(name)


def test_it_comes_back_and_interrupted_it_goes_on(vault: Vault, kit: str, tmp_path: Path) -> None:
    """Refused where something lies; cut off in the fetch and after it; then all is there, the next backup and the next copy too."""
    vault = ten_days_later(vault, tmp_path)
    with new_server() as new:
        prepared(new, vault)
        assert "put the keys back" in rebuild(new).stderr or "does not answer" in rebuild(new).stderr
        put_back(new, kit)
        assert "does not answer" in rebuild(new).stderr
        with beside(new, vault):
            for place, named in (("/srv/mine", "/data/srv"), (f"{REPOSITORY}/archive", REPOSITORY), (CLUSTER, CLUSTER)):
                new.out(f"mkdir -p {place}")
                refused = rebuild(new)
                assert refused.returncode == 1 and f" {named} already" in refused.stderr, refused.stderr
                new.out(f"rmdir {place}")
            cuts = {
                "/backup/rebuild": ("backups",),
                f"{REPOSITORY}/cabinet-fetched": ("backups", "files"),
                "/data/rebuild": ("files",),
                f"{CLUSTER}.restoring/log": ("cluster",),
            }
            for seen, steps in cuts.items():
                new.out(CUT.format(seen))
                assert json.loads(new.out("cat /var/lib/cabinet/rebuild.json"))["step"] in steps
                assert "being rebuilt" in new.run(f"mkdir -p /run/credentials; {SEND}").stderr, "half a server is sent"
            first = rebuild(new)
            assert first.returncode == 3 and "last change in it was committed at" in first.stdout, first
            assert new.run("test -e /srv/letters").returncode == 1, "documents are nobody's yet"
            assert rebuild(new).returncode == 3, "not deployed yet"
            new.out(DEPLOY)
            assert rebuild(new).returncode == 3, "not to its end"
            new.out(STAMP)
            last = rebuild(new)
            assert last.returncode == 0 and "group" not in last.stdout and "account gone" in last.stdout, last
            assert new.sql("SELECT string_agg(note, ' ' ORDER BY id) FROM visits", "practice") == "first second"
            stat = "stat -c '%n %U %G %a %u' /srv/letters /srv/letters/nadia /srv/image /srv/newest"
            assert new.out(stat).splitlines() == [
                "/srv/letters amina amina 750 1700", "/srv/letters/nadia amina amina 640 1700", "/srv/image root postgres 4664 0",
                "/srv/newest amina root 777 1700",
            ]  # fmt: skip
            assert new.out("cat /srv/letters/nadia") == "dear doctor"
            born = "cat /var/lib/cabinet/secrets/authority.key /var/lib/cabinet/tls/authority.pem /etc/cabinet/totp/amina"
            assert new.out(born) == "authoritycertificateseed"
            assert new.out("stat -c '%G %a' /var/lib/cabinet/tls/database.pem /etc/cabinet/totp") == "postgres 640\nroot 700"
            assert new.run(f"test -e {KEY} || grep -q old /etc/cabinet/revision || test -e /data/rebuild").returncode == 1
            assert new.practice("drill", "--here").returncode == 0
            again = rebuild(new)
            assert again.returncode == 1 and f"{REPOSITORY} already" in again.stderr
            new.out(CREDENTIALS + SEND)
            documents_come_back_one_by_one(new)
        away = new.practice("restore", "--document", "letters/nadia")
        assert away.returncode == 1 and "does not answer" in away.stdout, away


def documents_come_back_one_by_one(new: Server) -> None:
    """Each version, also from before the server was lost; beside the present one, for whom it belonged to; nothing else changes."""
    odd = "/srv/letters/\u00e9 [1]*.txt"
    new.out(f"printf wrong >/srv/letters/nadia; rm /srv/image; touch '/srv/letters/\u00e9 1.txt'; printf odd >'{odd}'; {SEND}")
    before = new.out("find /srv | sort")

    def back(name: str, *words: str) -> str:
        done = new.practice("restore", "--document", name, *words)
        assert done.returncode == 0, done
        return done.stdout

    def refused(name: str, *words: str) -> str:
        done = new.practice("restore", "--document", name, *words)
        assert done.returncode == 1 and not done.stderr, done
        return done.stdout

    versions = json.loads(back("letters/nadia", "--list", "--json"))["versions"]
    assert [one["bytes"] for one in versions] == [5, 11, 11], versions
    assert versions[0]["where"] == f"outside, {MONTH}"
    back("/srv/letters/nadia", "--snapshot", versions[-1]["id"][:8])
    assert new.out("stat -c '%U %G %a %u' /srv/letters/nadia.from-*; cat /srv/letters/nadia.from-* /srv/letters/nadia") == (
        "amina amina 640 1700\ndear doctorwrong"
    )
    new.out("rm /srv/letters/nadia.from-*")
    assert "account gone" in back("/srv/image", "--at", time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime(versions[-1]["at"] + 1)))
    assert new.out("stat -c '%U %G %a' /srv/image.from-*; cat /srv/image.from-*; rm /srv/image.from-*") == "root postgres 4664\nscan"
    back(odd)
    assert new.out('cd /srv/letters; for file in *.from-*; do cat "$file"; rm "$file"; done') == "odd"
    back("letters")
    assert new.out("cd /srv/letters.from-*; stat -c '%U %a' .; cat nadia; ls | wc -l; rm -r /srv/letters.from-*") == "amina 750\nwrong3"
    for name, said in (
        ("/etc/passwd", "is no document"), ("/srv/../etc/passwd", "is no document"), ("/srv", "is no document"), ("", "is no document"),
        ("letters/never", "no copy that can be reached holds /srv/letters/never"), ("nowhere/nadia", "/srv/nowhere is not there"),
    ):  # fmt: skip
        assert said in refused(name), name
    assert "has not come yet" in refused("letters/nadia", "--at", "2999-01-01")
    new.out("mv /srv/letters /srv/moved; ln -s /etc /srv/letters")
    assert "is no folder" in refused("letters/nadia")
    new.out("rm /srv/letters; mv /srv/moved /srv/letters; ! ls /etc/nadia* 2>/dev/null")
    assert new.out("find /srv | sort; ls /data") == f"{before}\nsrv", "something else was touched, or left"


def test_the_database_comes_from_the_backup_disk_that_survived(vault: Vault, kit: str, survivor: Path) -> None:
    """Only when that is said, and only by the kit's key; with what was never sent. All else is the copy's, and the disk this server's."""
    own, key = "--backup-disk", "/etc/pgbackrest/conf.d/key.conf"
    with new_server() as new:
        prepared(new, vault)
        put_back(new, kit)
        new.out(f"tar -xf - -C / && chown -R 4711:4711 {REPOSITORY}", survivor.read_bytes())
        with beside(new, vault):
            assert f" {REPOSITORY} already" in rebuild(new).stderr and own in rebuild(new).stderr
            assert "without --backup-disk" in rebuild(new, own, "--repository", f"{MONTH}.as-of-20261120T080000Z").stderr
            new.out(f"cp -p {key} /root/ && sed -i 's/pass=./pass=-/' {key}")
            assert "If part B is of another kit, remove" in rebuild(new, own).stderr
            assert f" {REPOSITORY} already" in rebuild(new).stderr, "as long as nothing is in its place it may come from elsewhere"
            new.out(f"mv /root/key.conf {key}")
            new.out(CUT.replace("offsite", f"offsite {own}").format(f"{CLUSTER}.restoring/log"))
            first = rebuild(new, own)
            assert first.returncode == 3 and "as it was on the backup disk: the last change" in first.stdout, first
            assert f"already, with {own}, and" in rebuild(new).stderr
            assert new.run("test -e /backup/machine-id || test -e /backup/rebuild").returncode == 1
            new.out(f"{DEPLOY}; {STAMP}")
            last = rebuild(new, own)
            assert last.returncode == 0, last
            assert new.sql("SELECT string_agg(note, ' ' ORDER BY id) FROM visits", "practice") == "first second third"
            assert new.out("cat /srv/letters/nadia /etc/cabinet/totp/amina") == "dear doctorseed"
            new.moment()
            new.out("systemctl start practice-backup@diff.service")
            assert [new.practice(*words).returncode for words in (("backup", "--check"), ("drill", "--here"))] == [0, 0]


def test_another_kit_is_named_and_a_medium_is_enough(vault: Vault, kit: str, stick: Path) -> None:
    """A part of another practice's kit opens nothing, and that is said; nothing is begun. Then the newest medium gives back everything."""
    with new_server() as new:
        prepared(new, vault)
        put_back(new, kit)
        new.out(f"printf b3RoZXI= >{PASSWORD}")
        with beside(new, vault):
            refused = rebuild(new)
            assert refused.returncode == 1 and f"does not open what lies there ({MONTH})" in refused.stderr, refused
            assert new.run("test -e /var/lib/cabinet/rebuild.json").returncode == 1
        with Sticks(new.place) as media:
            new.out(f"rm -r /etc/cabinet/offsite.json {PASSWORD} /etc/cabinet/revision 2>/dev/null; mkdir {STICKS}; cp {B} /root/kept")
            assert "no medium of a practice is plugged in" in media.run(FROM_MEDIUM).stderr
            new.out(f"tar -xf - -C {STICKS}", stick.read_bytes())
            name = media.plug("stick1")
            new.out(f"printf b3RoZXI= >{B}")
            assert "medium of monday (serial stick1): the password does not open it" in media.run(FROM_MEDIUM).stderr
            new.out(f"cp /root/kept {B}; test ! -e /var/lib/cabinet/rebuild.json")
            media.done(f"{FROM_MEDIUM} & until [ -e /backup/rebuild/backup ]; do sleep 0.01; done; kill -9 $!")
            assert "not from offsite: practice rebuild --from media" in rebuild(new).stderr
            media.done("mv /dev/disk/by-uuid /dev/disk/away")
            assert "from which this server is rebuilt, is not plugged in" in media.run(FROM_MEDIUM).stderr
            media.done("mv /dev/disk/away /dev/disk/by-uuid")
            first = media.run(FROM_MEDIUM)
            assert first.returncode == 3 and "the medium of monday (serial stick1)" in first.stdout, first
            media.pull(name)
            new.out(f"{DEPLOY}; {STAMP}")
            last = media.run(FROM_MEDIUM)
            assert last.returncode == 0, last
            assert new.sql("SELECT string_agg(note, ' ' ORDER BY id) FROM visits", "practice") == "first second third"
            assert new.out("stat -c %U /srv/letters/nadia; cat /srv/letters/nadia /etc/cabinet/totp/amina") == "amina\ndear doctorseed"
            assert new.run("test -e /data/rebuild || mountpoint -q /run/cabinet/media || test -e /dev/mapper/cabinet-media").returncode


def test_the_technicians_side(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The kit goes from a pipe into the server's memory, a slip is said, nothing is asked for twice; the server's reason is shown."""
    with new_server() as new, Sshd(new.place.inside, tmp_path) as sshd:
        parts = {"parts": {"A": KEY, "B": B, "C": PASSWORD, "D": LOGIN}, "grace_hours": 48}
        new.out(f"mkdir -p {Path(PARTS).parent}; cat >{PARTS}", json.dumps(parts))
        master = Master("server", tmp_path / "master", ["-F", str(sshd.ssh_config)])
        assert master.open() is None
        shell = by_master(master.riding, "server")
        connection: Any = SimpleNamespace(master=master, name="server", login=lambda: None, shell=lambda: master.shell("exec sudo -n sh"))
        text = written(7, {"A": b"a" * 32, "B": b"b" * 48, "C": b"c" * 48, "D": b"d" * 20})
        with pytest.raises(click.ClickException, match="the keys are not in place"):
            restore.keys_put_back(connection, text.replace("B1 ", "B1 C").encode())
        restore.keys_put_back(connection, text.encode())
        restore.keys_put_back(connection, b"")
        restore.keys_put_back(connection, b"", outside=False)
        assert subprocess.run(shell(f"cat {PASSWORD}"), capture_output=True, check=True).stdout == base64.b64encode(b"c" * 48)
        for source in ("offsite", "media"):
            with pytest.raises(click.ClickException, match="not restored"):
                restore.rebuilt(connection, source)
        master.close()
        said = "".join(capfd.readouterr())
        assert "line B1 is not as on page 7" in said and "nothing says where the copy outside is" in said
        assert "practice rebuild: lsblk: " in said, "this place has no disks to look at"
        assert text.split()[5] not in said, "a key was shown"
