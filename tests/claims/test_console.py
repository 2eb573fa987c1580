"""The console: the way in when no network helps, sealed in an envelope."""

from __future__ import annotations

import json

from testinfra.host import Host

from kit.vm import Machine
from tests.claim import claim
from tests.console import console


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
