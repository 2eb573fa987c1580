"""ssh: the people of the clinic file get in with a key and a code, and nobody else gets in at all."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from kit.connection import Connection
from kit.keys import vm_public_key
from kit.neighbour import SERVER, Neighbour
from kit.render import rendered
from kit.vm import Machine
from tests.claim import claim
from tests.console import console
from tests.door import OPTIONS, Door, Knock, journal, key_of, since
from tests.fidokey import TOUCHED, VERIFIED, FidoKey

SSHD_CONFIG = "/etc/ssh/sshd_config"


KEY_EXCHANGES = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"}
# Debian 12's ssh-audit (2.5.0) is older than these and says so; from 3.3 on it has nothing to say about them. Its list of CVEs is not
# asked: it takes OpenSSH 10 for OpenSSH 1.
OUTDATED_FINDINGS = {
    ("mlkem768x25519-sha256", "unknown algorithm"),
    ("sntrup761x25519-sha512", "unknown algorithm"),
    ("kex-strict-s-v00@openssh.com", "unknown algorithm"),
    ("sntrup761x25519-sha512@openssh.com", "using experimental algorithm"),
}


def sshd_with(expression: str):
    """A sabotage: edit sshd_config with sed and make sshd read it (restart: a reload returns before it has happened)."""

    def sabotage(host: Host) -> None:
        host.check_output(f"sed -i '{expression}' {SSHD_CONFIG} && systemctl restart ssh")

    sabotage.__name__ = f"sshd_config: {expression}"
    return sabotage


@pytest.fixture(scope="session")
def door(host: Host, inside: Neighbour, vm_people: None) -> Door:
    """SSH as the practice's LAN sees it, and as its people come in."""
    return Door(host, inside)


@claim("SSH-01", broken_by=sshd_with("s/^AuthenticationMethods .*/AuthenticationMethods publickey/"), symptom="key alone")
def test_a_key_alone_is_refused(door: Door) -> None:
    """Amina's own key, without a code."""
    code = door.codes("amina")["amina"][0]
    with_code, without = door.knock(Knock("amina", "amina", code), Knock("amina", "amina", None))
    assert with_code.verdict == "inside", f"control: key and code do not open: {with_code}"
    assert without.verdict == "refused", f"a key alone: {without}"


@claim("SSH-02", broken_by=sshd_with("s/^AuthenticationMethods .*/AuthenticationMethods keyboard-interactive/"), symptom="code alone")
def test_a_code_alone_is_refused(door: Door) -> None:
    """Amina's own code, without a key, and with the key of a colleague."""
    now, later = door.codes("amina")["amina"]
    with_key, without, with_another = door.knock(
        Knock("amina", "amina", now), Knock("amina", None, later), Knock("amina", "nadia", later)
    )
    assert with_key.verdict == "inside", f"control: key and code do not open: {with_key}"
    assert [without.verdict, with_another.verdict] == ["refused"] * 2, f"a code alone: {without}, {with_another}"


def any_code_does(host: Host) -> None:
    host.check_output("sed -i '1i auth sufficient pam_permit.so' /etc/pam.d/sshd")


@claim("SSH-03", broken_by=any_code_does, symptom="wrong code")
def test_a_wrong_code_is_refused(door: Door) -> None:
    """Amina's own key, and a code that is not hers."""
    now, later = door.codes("amina")["amina"]
    wrong = next(code for code in ("000000", "123456", "654321") if code not in (now, later))
    right, guessed = door.knock(Knock("amina", "amina", now), Knock("amina", "amina", wrong))
    assert right.verdict == "inside", f"control: the right code does not open: {right}"
    assert guessed.verdict == "refused", f"a wrong code: {guessed}"


def codes_may_be_used_again(host: Host) -> None:
    host.check_output("sed -i '/DISALLOW_REUSE/d' /etc/cabinet/totp/amina")


@claim("SSH-04", broken_by=codes_may_be_used_again, symptom="second time")
def test_a_code_is_good_once(door: Door) -> None:
    """Whoever has read a code over Amina's shoulder comes too late, even with her key."""
    now, later = door.codes("amina")["amina"]
    (first,) = door.knock(Knock("amina", "amina", now))
    again, next_one = door.knock(Knock("amina", "amina", now), Knock("amina", "amina", later))
    assert [first.verdict, next_one.verdict] == ["inside"] * 2, f"control: unused codes do not open: {first}, {next_one}"
    assert again.verdict == "refused", f"a code the second time: {again}"


def key_removed(host: Host) -> None:
    host.check_output("rm /etc/ssh/authorized_keys/amina")


@claim("SSH-05", broken_by=key_removed, symptom="amina stays outside")
def test_key_and_code_let_people_in(door: Door, clinic: Clinic) -> None:
    """Everybody who may log in does; a colleague who may not is refused with her own good key."""
    may = [person.name for person in clinic.people if person.login]
    may_not = [person.name for person in clinic.people if not person.login]
    codes = door.codes(*may)
    answers = door.knock(*(Knock(name, name, codes[name][0]) for name in may), *(Knock(name, name, "123456") for name in may_not))
    verdicts = dict(zip(may + may_not, (answer.verdict for answer in answers), strict=True))
    outside = [name for name in may if verdicts[name] != "inside"]
    assert not outside, f"{', '.join(outside)} stays outside with key and code: {answers}"
    assert [verdicts[name] for name in may_not] == ["refused"] * len(may_not), f"let in: {answers}"


PASSWORDS_AGAIN = "s/^AuthenticationMethods.*/AuthenticationMethods any/; s/^PasswordA.*/PasswordAuthentication yes/"


@claim("SSH-06", broken_by=sshd_with(PASSWORDS_AGAIN), symptom="password")
def test_no_password_is_asked_for(door: Door) -> None:
    """At first only a key is taken; then one question, and it is for the code."""
    code = door.codes("amina")["amina"][0]
    (answer,) = door.knock(Knock("amina", "amina", code, options="-v"))
    assert answer.verdict == "inside", f"control: key and code do not open: {answer}"
    offered = re.findall(r"Authentications that can continue: (\S+)", answer.said)
    asked = re.findall(r"^\(?.*(?:[Pp]assword|code):", answer.said, re.MULTILINE)
    assert offered == ["publickey", "keyboard-interactive"], f"offered, a password among it perhaps: {offered}"
    assert [question for question in asked if "assword" in question] == [], f"a password is asked for: {asked}"


@claim("SSH-07", broken_by=sshd_with("s/^PermitRootLogin no/PermitRootLogin yes/; s/^AllowGroups.*/& root/"), symptom="root got in")
def test_root_does_not_log_in(host: Host, door: Door) -> None:
    """Root stays outside even with a key and a code of her own that are right."""
    plant = f"echo {vm_public_key('amina')!r} > /etc/ssh/authorized_keys/root; cp -p /etc/cabinet/totp/amina /etc/cabinet/totp/root"
    now, later = door.codes("amina")["amina"]
    host.check_output(plant)
    try:
        control, root = door.knock(Knock("amina", "amina", now), Knock("root", "amina", later))
    finally:
        host.check_output("rm -f /etc/ssh/authorized_keys/root /etc/cabinet/totp/root")
    assert control.verdict == "inside", f"control: the same key and code do not let Amina in: {control}"
    assert root.verdict == "refused", f"root got in: {root}"


@claim("SSH-08", broken_by=sshd_with("s/^MACs .*/MACs hmac-sha1,hmac-sha2-256-etm@openssh.com/"), symptom="hmac-sha1")
def test_algorithms_have_no_known_weakness(inside: Neighbour) -> None:
    """ssh-audit finds neither a failure nor a warning, and the keys are exchanged in a way that outlives quantum computers."""
    said = inside.run(f"ssh-audit --no-colors {SERVER}").stdout
    lists = {kind: set(re.findall(rf"^\({kind}\) (\S+)", said, re.MULTILINE)) for kind in ("kex", "key")}
    assert lists["kex"] - {"kex-strict-s-v00@openssh.com", "ext-info-s"} == KEY_EXCHANGES, f"key exchange: {lists['kex']}\n{said}"
    assert lists["key"] == {"ssh-ed25519"}, f"host keys: {lists['key']}"
    found = re.findall(r"^\(\w+\) (\S+) .*\[(?:warn|fail)\] (.*)$", said, re.MULTILINE)
    assert [finding for finding in found if finding not in OUTDATED_FINDINGS] == [], f"ssh-audit: {found}"


def backdoor(host: Host) -> None:
    host.check_output("useradd --create-home backdoor; usermod --append --groups cabinet-login --expiredate '' backdoor")


@claim("SSH-09", broken_by=backdoor, symptom="backdoor")
def test_exactly_these_people_may_log_in(host: Host, clinic: Clinic) -> None:
    """The whole set, each way it can be written down: group, key, seed, open account, password."""
    may = sorted(person.name for person in clinic.people if person.login)
    people = sorted(person.name for person in clinic.people)
    open_now = "($3 >= 1000 || $3 == 0) && $3 != 65534 && $1 in open"
    found = {
        "members of cabinet-login": host.check_output("getent group cabinet-login | cut -d: -f4 | tr , '\\n' | sort").split(),
        "its members by first group": host.check_output(
            "awk -F: -v group=$(getent group cabinet-login | cut -d: -f3) '$4 == group {print $1}' /etc/passwd"
        ).split(),
        "keys": host.check_output("ls -A /etc/ssh/authorized_keys").split(),
        "seeds": host.check_output("ls /etc/cabinet/totp").split(),
        "open accounts": host.check_output(
            f"awk -F: 'NR==FNR {{if ($8 == \"\") open[$1]; next}} {open_now} {{print $1}}' /etc/shadow /etc/passwd | sort"
        ).split(),
        "passwords": host.check_output(
            "sealed=$(cat /etc/cabinet/breakglass 2>/dev/null || true) "
            "awk -F: '$2 !~ /^[!*]/ && $2 != ENVIRON[\"sealed\"] {print $1}' /etc/shadow"
        ).split(),
    }
    wanted = {
        "members of cabinet-login": may,
        "its members by first group": [],
        "keys": may,
        "seeds": may,
        "open accounts": sorted([*people, "root"]),
        "passwords": [],
    }
    wrong = {where: sorted(set(found[where]) ^ set(wanted[where])) for where in wanted if found[where] != wanted[where]}
    assert wrong == {}, f"who may log in is not who should: {wrong}"


def everybody_is_root(host: Host) -> None:
    host.check_output("echo 'amina ALL=(ALL) NOPASSWD: ALL' >> /etc/sudoers")


@claim("SSH-10", broken_by=everybody_is_root, symptom="amina")
def test_exactly_these_sudo_rules(host: Host, clinic: Clinic) -> None:
    """All rules of sudoers and of whatever it includes; and who is not in them is refused."""
    rules = json.loads(host.check_output("cvtsudoers --output-format json /etc/sudoers"))["User_Specs"]
    who = sorted(json.dumps(list(user.values())[0]) for rule in rules for user in rule["User_List"])
    wanted = sorted(json.dumps(name) for name in ["root", *(person.name for person in clinic.administrators)])
    assert who == wanted, f"rules for {', '.join(who)} instead of {', '.join(wanted)}"
    others = " ".join(person.name for person in clinic.people if not person.administers)
    allowed = host.run(f"for name in {others}; do runuser -u $name -- sudo -n true && echo $name; done").stdout
    assert allowed == "", f"becomes root without being an administrator: {allowed}"
    technician = clinic.technician
    assert host.run(f"runuser -u {technician} -- sudo -n id -u").stdout == "0\n", f"control: {technician} does not become root"


@claim("SSH-11", broken_by=sshd_with("s/^ChannelTimeout.*/ChannelTimeout none/"), symptom="left alone stays")
def test_a_session_left_alone_ends(host: Host, connection: Connection, door: Door) -> None:
    """sshd's own limits are ten minutes; cut down to two seconds for one log-in, the shell really ends; and so does bash by itself."""
    settings = host.check_output("sshd -T | grep -iE '^(channeltimeout|unusedconnectiontimeout|clientalive)' | sort").splitlines()
    assert settings == [
        "channeltimeout session:shell=10m session:command=60m session:subsystem:*=10m",
        "clientalivecountmax 4",
        "clientaliveinterval 30",
        "unusedconnectiontimeout 600",
    ], f"a session left alone stays: {settings}"
    unset = host.run("runuser -l amina -c 'echo $TMOUT; unset TMOUT'")
    assert unset.stdout.strip() == "600" and "readonly" in unset.stderr, f"a shell left alone stays: {unset}"
    seconds = shell_left_alone(connection, door, "-o ChannelTimeout=session:shell=2s")
    assert seconds < 25, "the shell did not end"


def shell_left_alone(connection: Connection, door: Door, options: str) -> float:
    """How long a shell lives in which nobody types, on an sshd of its own that has the real configuration but for `options`."""
    sshd = " ".join(connection.master.riding(connection.name, f"sudo -n /usr/sbin/sshd -i {options}"))
    code = door.codes("amina")["amina"][1]
    began = time.monotonic()
    with subprocess.Popen(
        ["ssh", *OPTIONS.replace("-n ", "").split(), "-tt", "-i", str(key_of("amina")), "-o", f"ProxyCommand={sshd}", "amina@server"],
        env={"PATH": "/usr/bin:/bin", "SSH_ASKPASS": str(door.askpass), "SSH_ASKPASS_REQUIRE": "force", "CABINET_CODE": code},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as shell:
        try:
            shell.wait(30)
        finally:
            shell.kill()
    return time.monotonic() - began


@claim("SSH-12", broken_by=sshd_with("s/^PerSourcePenalties.*/PerSourcePenalties no/"), symptom="goes on guessing")
def test_who_fails_often_is_cut_off(door: Door) -> None:
    """A stranger who guesses is not even talked to after five failed connections; people at other addresses are not concerned."""
    stranger = door.new_address()
    guesses = door.knock(*[Knock("amina", "nadia", None, source=stranger)] * 5)
    assert {guess.verdict for guess in guesses} == {"refused"}, f"control: the first guesses are answered: {guesses}"
    code = door.codes("amina")["amina"][0]
    again, elsewhere = door.knock(Knock("amina", "amina", code, source=stranger), Knock("amina", "amina", door.codes("amina")["amina"][1]))
    assert elsewhere.verdict == "inside", f"control: Amina is shut out by a stranger's guesses: {elsewhere}"
    assert again.verdict == "cut", f"the stranger goes on guessing: {again}"


def seeds_for_all(host: Host) -> None:
    host.check_output("chmod -R a+rX /etc/cabinet/totp")


@claim("SSH-13", broken_by=seeds_for_all, symptom="/etc/cabinet/totp/")
def test_seeds_and_keys_are_roots(host: Host, clinic: Clinic) -> None:
    """Nobody but root reads a seed or the host key; nobody but root adds a key."""
    secrets = "/etc/cabinet/totp/* /etc/ssh/ssh_host_ed25519_key"
    somebody = f"runuser -u {clinic.technician} -- cat"
    readable = host.run(f"for f in {secrets}; do {somebody} $f >/dev/null && echo $f; done")
    assert readable.stdout == "", f"{clinic.technician} reads {readable.stdout.split()}"
    loose = host.check_output(
        "find /etc/cabinet/totp -type f ! -name '.*' '(' ! -user root -o -perm /077 ')'; "
        "find -L /etc/ssh /etc/pam.d /etc/sudoers '(' ! -user root -o -perm /022 ')'"
    )
    assert loose == "", f"others write to, or read: {loose}"
    assert host.run(f"{somebody} /etc/ssh/authorized_keys/{clinic.technician}").rc == 0, "control: nobody reads anything at all"


@claim("SSH-14", broken_by=sshd_with("s/^LogLevel.*/LogLevel QUIET/"), symptom="not recorded")
def test_log_ins_are_recorded(host: Host, door: Door) -> None:
    """Who came in from where and by which key, who was refused, and who became root."""
    began = since(host)
    code = door.codes("salim")["salim"][0]
    door.knock(Knock("salim", "salim", code, command="sudo -n true; echo inside"), Knock("mallory", "nadia", None))
    said = journal(host, began, "Invalid user mallory")
    expected = {
        "log-in": r"Accepted keyboard-interactive/pam for salim from 10\.70\.0\.\d+",
        "key": r"Accepted key ED25519 SHA256:\S+ found at /etc/ssh/authorized_keys/salim",
        "refusal": r"Invalid user mallory from 10\.70\.0\.\d+",
        "administration": r"salim : .*COMMAND=/usr/bin/true",
    }
    missing = [what for what, pattern in expected.items() if not re.search(pattern, said)]
    assert missing == [], f"not recorded: {missing} in:\n{said}"


def exception_for_one(host: Host) -> None:
    host.check_output(f"printf 'Match User salim\\n AuthenticationMethods publickey\\n' >> {SSHD_CONFIG} && systemctl restart ssh")


@claim("SSH-15", broken_by=exception_for_one, symptom="salim")
def test_sshd_is_the_same_for_everybody(host: Host, clinic: Clinic) -> None:
    """What sshd would do for each person and from each side is one and the same; and what runs is what the file says."""
    people = [*(person.name for person in clinic.people), "root", "vagrant", "mallory"]
    asked = host.check_output(
        "for user in " + " ".join(people) + "; do for from in 10.70.0.66 10.0.2.2 fd70::66 127.0.0.1; do "
        "echo $user $from $(sshd -T -C user=$user,addr=$from,host=$from,laddr=10.70.0.10,lport=22 | sha256sum); done; done"
    )
    answers = [line.split() for line in asked.splitlines()]
    common = answers[-1][2]
    assert [line[:2] for line in answers if line[2] != common] == [], f"an exception: {[line[:2] for line in answers if line[2] != common]}"
    running = host.check_output("tr '\\0' ' ' < /proc/$(systemctl show -P MainPID ssh)/cmdline").strip()
    assert running.startswith("sshd: /usr/sbin/sshd -D [listener]"), f"runs with options that no file shows: {running}"
    assert host.check_output("systemctl show -P DropInPaths ssh") == "/etc/systemd/system/ssh.service.d/cabinet.conf"


@claim("SSH-16", broken_by=sshd_with("s/^DisableForwarding.*//; s/^AllowTcpForwarding.*/AllowTcpForwarding yes/"), symptom="leads further")
def test_a_log_in_leads_no_further(door: Door) -> None:
    """Nobody uses SSH to get at what listens on the server or behind it."""
    now, later = door.codes("amina")["amina"]
    plain, tunnel = door.knock(Knock("amina", "amina", now), Knock("amina", "amina", later, options="-v -W 127.0.0.1:9", command=""))
    assert plain.verdict == "inside", f"control: the same log-in runs no command: {plain}"
    assert "Authenticated to" in tunnel.said, f"control: not even logged in: {tunnel}"
    assert "administratively prohibited" in tunnel.said, f"a log-in leads further: {tunnel}"


@claim("SSH-17", broken_by=sshd_with("s/^PubkeyAuthOptions.*/PubkeyAuthOptions none/"), symptom="a touch alone")
@pytest.mark.usefixtures("vm_people")
def test_a_fido_key_is_two_factors_only_with_its_owner(host: Host, connection: Connection) -> None:
    """On an sshd of its own with the real configuration, and the exception that the template makes for who has nothing but FIDO keys."""
    exception = rendered("ssh/sshd_config.j2", token_holders=["amina"]).removeprefix(rendered("ssh/sshd_config.j2", token_holders=[]))
    token, config = FidoKey(), "/run/cabinet/fido"
    host.check_output(
        f"mkdir -p {config} && printf '%s\\n' '{token.public}' '{vm_public_key('amina')}' > {config}/amina && "
        f"cat {SSHD_CONFIG} - > {config}/sshd_config <<'END'\n{exception}\nEND"
    )
    sshd = f"sudo -n /usr/sbin/sshd -i -f {config}/sshd_config -o AuthorizedKeysFile={config}/amina"
    ssh = ["ssh", *OPTIONS.replace("-o IdentityAgent=none -o IdentitiesOnly=yes", "").split(), "-o", "BatchMode=yes"]
    ssh += ["-o", f"ProxyCommand={' '.join(connection.master.riding(connection.name, sshd))}"]

    def let_in(*arguments: str, agent: str = "none") -> bool:
        argv = [*ssh, "-o", f"IdentityAgent={agent}", *arguments, "amina@server", "echo inside"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert "inside" in done.stdout or "Permission denied" in done.stderr, f"control: sshd did not answer: {done.stderr}"
        return "inside" in done.stdout

    with token.agent(VERIFIED) as verified, token.agent(TOUCHED) as touched:
        assert let_in(agent=verified), "control: a FIDO key with PIN or finger does not open"
        assert not let_in(agent=touched), "a touch alone opens"
    assert not let_in("-i", str(key_of("amina"))), "a plain key alone opens where the exception is for FIDO keys"


def leaver_at_work(host: Host) -> None:
    host.check_output(
        "useradd --no-create-home leaver; systemd-run --quiet --uid=leaver sleep 3600;"
        " systemd-run --quiet --slice=user-$(id -u leaver).slice sleep 3600"
    )


@claim("SSH-18", broken_by=leaver_at_work, symptom="leaver")
def test_nobody_else_is_at_work(host: Host, clinic: Clinic) -> None:
    """Each process of a person, and each session with what sudo began in it, is one of somebody who may log in; control: ours is seen."""
    session = "s|.*/user-\\([0-9]*\\)\\.slice/.*|\\1|p"
    at_work = host.check_output(
        f"for process in /proc/[0-9]*; do stat -c %u $process; sed -n '{session}' $process/cgroup; done 2>/dev/null |"
        " sort -un | awk '$1 >= 1000 && $1 < 60000' | xargs -r id -nu"
    ).split()
    may = {person.name for person in clinic.people if person.login}
    assert clinic.technician in at_work, "control: not even this session is seen"
    assert [name for name in at_work if name not in may] == [], f"at work: {at_work}"


def console_closed(host: Host) -> None:
    host.check_output("sed -i '/@include common-auth/a auth required pam_deny.so' /etc/pam.d/login")


@claim("SSH-19", broken_by=console_closed, symptom="does not open")
def test_the_console_opens_to_the_sealed_password_alone(host: Host, vm: Machine) -> None:
    """On a serial line, as when no network helps; wrong passwords and void ones are refused; an alarm tells of the right one."""
    before, sealed = (json.loads(host.check_output("practice breakglass --yes --json"))["password"] for _ in range(2))
    with console(host, vm) as line:
        answers = {word: line.log_in("root", word) for word in (f"{sealed}x", before, sealed)}
    assert answers[sealed], f"the sealed password does not open: {line.said[-2000:]}"
    assert not answers[f"{sealed}x"] and not answers[before], f"another password opens: {line.said[-2000:]}"
    told = json.loads(host.check_output("practice alarm list"))
    assert "ttyS1" in told["breakglass"]["text"], f"nobody is told: {told}"
    host.check_output("practice breakglass --yes --json")
    assert "breakglass" not in json.loads(host.check_output("practice alarm list")), "the alarm stands although a new one is sealed"


def log_ins_not_noted(host: Host) -> None:
    host.check_output("sed -i /pam_lastlog2/d /etc/pam.d/sshd /etc/pam.d/common-session")


@claim("SSH-20", broken_by=log_ins_not_noted, symptom="still counts as unused")
def test_an_account_that_nobody_uses_is_found(host: Host, door: Door) -> None:
    """Amina's last log-in is moved 91 days into the past; after the next one all is well."""
    first, second = door.codes("amina")["amina"]
    look = "systemctl restart practice-watch; practice alarm list"
    set_to = (
        "import sqlite3, time; table = sqlite3.connect('/var/lib/lastlog/lastlog2.db');"
        " table.execute('INSERT OR REPLACE INTO Lastlog2 (Name, Time) VALUES (?, ?)', ('amina', int(time.time()) - {days} * 86400));"
        " table.commit()"
    )
    (before,) = door.knock(Knock("amina", "amina", first))
    host.check_output("python3 -c %s", set_to.format(days=91))
    try:
        assert "unused:amina" in host.check_output(look), "an account that nobody has used for 91 days goes unnoticed"
        (after,) = door.knock(Knock("amina", "amina", second))
        assert [before.verdict, after.verdict] == ["inside"] * 2, f"control: Amina did not come in: {before}, {after}"
        assert "unused:amina" not in host.check_output(look), "amina still counts as unused although she has just come in"
    finally:
        host.check_output("python3 -c %s", set_to.format(days=0))
        host.check_output(look)
