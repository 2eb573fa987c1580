"""recovery: one page opens everything, and the server says for how long nobody holds it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from practice.recovery_kit import KEPT
from roles.backup import REPOSITORY, STANZA
from roles.database import POSTGRES
from roles.offsite import LOGIN, PASSWORD
from roles.recovery import CONFIG, GRACE_HOURS
from roles.storage import SECRETS
from tests.claim import claim
from tests.claims.test_backup import alarms

KEYS = f"{SECRETS}/* {LOGIN}"
ASIDE = "/run/cabinet/kit-aside"
READ = "/run/cabinet/kit-read"
# The page as it is typed in again: into memory, on the server itself, so that no secret gets into what a test says.
TYPED = f"""set -e; umask 077; rm -rf {READ}; mkdir -p {READ}; cd /usr/local/lib/cabinet
practice recovery-kit --text | python3 -c '
import pathlib, sys
from practice import letters, recovery_kit
for part, key in letters.read(sys.stdin.read())[1].items():
    pathlib.Path(sys.argv[1], part).write_text(recovery_kit.unpacked(part, key))' {READ}
"""
# By what stands on the page alone: without the server's own configuration, and without the TPM.
OPENS = {
    "A": f"disk=$(cryptsetup status data | awk '$1 == \"device:\" {{ print $2 }}'); "
    f"cryptsetup open --test-passphrase --disable-external-tokens --key-file {READ}/A $disk",
    "B": f"export PGBACKREST_REPO1_CIPHER_PASS=$(cat {READ}/B); cd /; {POSTGRES} pgbackrest --no-config --stanza={STANZA} "
    f"--repo1-path={REPOSITORY} --repo1-cipher-type=aes-256-cbc info | grep -q 'status: ok'",
    "C": f'printf %s "$(cat {PASSWORD})" | cmp - {READ}/C',
    "D": f'printf %s "$(cat {LOGIN})" | cmp - {READ}/D',
}


@pytest.fixture
def as_it_was(host: Host) -> Iterator[None]:
    """What the server knows of its kit, and how old its keys are, is afterwards what it was."""
    host.check_output(
        f"rm -rf {ASIDE}; mkdir -m 700 {ASIDE}; test ! -e {KEPT} || cp -a {KEPT} {ASIDE}/kept\n"
        f"for key in {KEYS}; do test ! -e $key || touch -r $key {ASIDE}/key-${{key##*/}}; done"
    )
    yield
    host.check_output(
        f"rm -rf {KEPT} {READ}; test ! -e {ASIDE}/kept || cp -a {ASIDE}/kept {KEPT}\n"
        f"for key in {KEYS}; do touch -c -r {ASIDE}/key-${{key##*/}} $key; done; rm -rf {ASIDE}; systemctl restart practice-watch"
    )


def a_wrong_key_on_the_page(host: Host) -> None:
    host.check_output(f"sed -i 's/backup-passphrase/offsite-password/' {CONFIG}")


@claim("KIT-01", broken_by=a_wrong_key_on_the_page, symptom="does not open: ['B']")
def test_the_page_opens_everything(host: Host, clinic: Clinic, as_it_was: None) -> None:
    """Read in as somebody would type it: each of its keys opens what it is for, and no further one stands there."""
    host.check_output(TYPED)
    wanted = {"A", "B", "C", "D"} if clinic.offsite else {"A", "B"}
    assert set(host.check_output(f"ls {READ}").split()) == wanted
    closed = [part for part in sorted(wanted) if host.run(OPENS[part]).rc]
    assert closed == [], f"the kit does not open: {closed}"


def never_missed(host: Host) -> None:
    host.check_output(f'sed -i \'s/"grace_hours": {GRACE_HOURS}/"grace_hours": 999999/\' {CONFIG}')


@claim("KIT-02", broken_by=never_missed, symptom="no alarm")
def test_it_is_said_that_nobody_holds_a_kit(host: Host, as_it_was: None) -> None:
    """Three days after a key came there is an alarm; to print a page changes nothing, to confirm it takes the alarm away."""
    host.check_output(
        f"rm -f {KEPT}; touch -c -d '3 days ago' {KEYS} && practice recovery-kit --text >/dev/null && systemctl restart practice-watch"
    )
    said = alarms(host).get("recovery-kit", {}).get("text", "no alarm")
    assert "NOBODY has confirmed kit 1" in said, said
    forged = "sed '2s/^A1 ......../A1 CCCCCCCC/' | practice recovery-kit --confirm"
    assert host.run(f"practice recovery-kit --text | {forged}").rc == 1, "control: a page that opens nothing was believed"
    host.check_output("practice recovery-kit --text | practice recovery-kit --confirm && systemctl restart practice-watch")
    assert "recovery-kit" not in alarms(host), "the alarm stands although the kit was confirmed"
    told = json.loads(host.check_output("cat /run/cabinet/status.json"))["recovery"]
    assert (told["number"], told["changed"]) == (1, []) and told["confirmed"]


def one_kind_needs_no_kit(host: Host) -> None:
    host.check_output(f'sed -i \'s/"backup": "B"/"backup": ""/\' {CONFIG}')


@claim("KIT-03", broken_by=one_kind_needs_no_kit, symptom="counts although nobody")
def test_no_backup_counts_before_a_kit_was_shown(host: Host, as_it_was: None) -> None:
    """There is a backup, it is not refused, and it does not count; printing a page changes nothing; to show it makes it count."""

    def counts() -> dict[str, bool]:
        return json.loads(host.run("practice status --json").stdout)["counts"]

    host.check_output(f"rm -f {KEPT}")
    assert json.loads(host.check_output("practice backup --list --json")) != [], "control: there is no backup at all"
    seen = counts()
    host.check_output("practice recovery-kit --text >/dev/null")
    early = [kind for kind, does in (*seen.items(), *counts().items()) if does]
    assert early == [], f"counts although nobody has shown a kit: {early}"
    assert "none counts yet: nobody has shown that kit 1 opens them" in host.run("practice status").stdout
    host.check_output("practice recovery-kit --text | practice recovery-kit --confirm")
    assert counts()["backup"], "the backups do not count although the kit was shown"
    assert "none counts yet: nobody" not in host.run("practice status").stdout
