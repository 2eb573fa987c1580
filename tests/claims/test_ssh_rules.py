"""ssh, second half: the rules at the door, who may do what, what is recorded, and what a session may not do."""

from __future__ import annotations

import json
import re
import subprocess
import time

from testinfra.host import Host

from kit.clinic import Clinic
from kit.connection import Connection
from kit.neighbour import SERVER, Neighbour
from tests.claim import claim
from tests.door import OPTIONS, SSHD_CONFIG, Door, Knock, journal, key_of, since, sshd_with

KEY_EXCHANGES = {"mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"}
# Debian 12's ssh-audit (2.5.0) is older than these and says so; from 3.3 on it has nothing to say about them. Its list of CVEs is not
# asked: it takes OpenSSH 10 for OpenSSH 1.
OUTDATED_FINDINGS = {
    ("mlkem768x25519-sha256", "unknown algorithm"),
    ("sntrup761x25519-sha512", "unknown algorithm"),
    ("kex-strict-s-v00@openssh.com", "unknown algorithm"),
    ("sntrup761x25519-sha512@openssh.com", "using experimental algorithm"),
}


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
        "passwords": host.check_output("awk -F: '$2 !~ /^[!*]/ && $1 != \"root\" {print $1}' /etc/shadow").split(),
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
    sshd = " ".join([*connection.ssh, connection.name, f"sudo -n /usr/sbin/sshd -i {options}"])
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
def test_seeds_and_keys_are_roots(host: Host) -> None:
    """Nobody but root reads a seed or the host key; nobody but root adds a key."""
    secrets = "/etc/cabinet/totp/* /etc/ssh/ssh_host_ed25519_key"
    readable = host.run(f"for f in {secrets}; do runuser -u amina -- cat $f >/dev/null && echo $f; done")
    assert readable.stdout == "", f"amina reads {readable.stdout.split()}"
    loose = host.check_output(
        "find /etc/cabinet/totp -type f ! -name '.*' '(' ! -user root -o -perm /077 ')'; "
        "find -L /etc/ssh /etc/pam.d /etc/sudoers '(' ! -user root -o -perm /022 ')'"
    )
    assert loose == "", f"others write to, or read: {loose}"
    assert host.run("runuser -u amina -- cat /etc/ssh/authorized_keys/amina").rc == 0, "control: amina reads nothing at all"


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
