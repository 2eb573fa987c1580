"""ssh, first half: who gets in, with what; each refusal beside the same person let in."""

from __future__ import annotations

import re
import subprocess

from testinfra.host import Host

from kit.clinic import Clinic
from kit.connection import Connection
from kit.keys import vm_public_key
from kit.render import rendered
from tests.claim import claim
from tests.door import OPTIONS, SSHD_CONFIG, Door, Knock, key_of, sshd_with
from tests.fidokey import TOUCHED, VERIFIED, FidoKey


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


@claim("SSH-17", broken_by=sshd_with("s/^PubkeyAuthOptions.*/PubkeyAuthOptions none/"), symptom="a touch alone")
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
    ssh += ["-o", f"ProxyCommand={' '.join([*connection.ssh, connection.name, sshd])}"]

    def let_in(*arguments: str, agent: str = "none") -> bool:
        argv = [*ssh, "-o", f"IdentityAgent={agent}", *arguments, "amina@server", "echo inside"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert "inside" in done.stdout or "Permission denied" in done.stderr, f"control: sshd did not answer: {done.stderr}"
        return "inside" in done.stdout

    with token.agent(VERIFIED) as verified, token.agent(TOUCHED) as touched:
        assert let_in(agent=verified), "control: a FIDO key with PIN or finger does not open"
        assert not let_in(agent=touched), "a touch alone opens"
    assert not let_in("-i", str(key_of("amina"))), "a plain key alone opens where the exception is for FIDO keys"
