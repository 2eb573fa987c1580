"""People come and go: in one deploy Amina is out with all that she ran, and Karim comes in with a second factor of his own."""

from __future__ import annotations

import json

from testinfra.host import Host

from kit import deployment, enrol, keys, totp
from kit.neighbour import Neighbour
from tests.door import Door, Knock, journal, since

RUNS_ON = "setsid sleep 3600 >/dev/null 2>&1 & echo inside"
DEVICES = "wg show vpn peers"


def test_one_leaves_and_one_comes(host: Host, inside: Neighbour) -> None:
    """Her files stay, and who owned them is known; when she comes back she gets a new second factor, and the old one is void."""
    door = Door(host, inside)
    codes, old = door.codes("amina")["amina"], door.seed("amina")
    phone, laptop = keys.vm_vpn_key("amina-phone"), keys.vm_vpn_key("salim-laptop")
    assert sorted(host.check_output(DEVICES).split()) == sorted([phone, laptop]), "control: her phone has no way in"
    host.check_output("echo hers | install -o amina -m 600 /dev/stdin ~amina/letter")
    (before,) = door.knock(Knock("amina", "amina", codes[0], command=RUNS_ON))
    assert before.verdict == "inside" and host.run("pgrep -u amina sleep").rc == 0, f"control: Amina is not at work: {before}"
    try:
        done = deployment.pyinfra("vagrant", "tests.stories.variants.amina_leaves_and_karim_comes", "--yes", echo=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert host.run("pgrep -u amina").stdout == "", "what she ran goes on"
        assert host.check_output("stat -c %U ~amina/letter; cat ~amina/letter").split() == ["amina", "hers"]
        assert host.run("ls /etc/cabinet/totp/amina /etc/ssh/authorized_keys/amina").stdout == ""
        assert host.check_output(DEVICES).split() == [laptop], "her phone still gets in"
        enrolled = host.check_output("practice enrol karim --json --png /root/karim.png")
        assert host.check_output("stat -c '%a %U' /root/karim.png; head -c 4 /root/karim.png | tail -c 3").split() == ["600", "root", "PNG"]
        karims = enrol.seed_in(json.loads(enrolled)["address"])
        his_code = totp.code(karims, int(host.check_output("date +%s")) // totp.STEP)
        hers, his = door.knock(Knock("amina", "amina", codes[1]), Knock("karim", "karim", his_code))
        assert his.verdict == "inside", f"Karim stays outside: {his}"
        assert hers.verdict == "refused", f"Amina comes in: {hers}"
    finally:
        host.run("rm -f /root/karim.png")
        for role in ("ssh", "vpn"):
            deployment.run_role("vagrant", role)
        enrol.fetch_test_seeds(host.backend.shell, ["amina"])
    assert door.seed("amina") != old, "her old second factor is good again"
    back, gone = door.knock(Knock("amina", "amina", door.codes("amina")["amina"][0]), Knock("karim", "karim", totp.code(karims, 0)))
    assert (back.verdict, gone.verdict) == ("inside", "refused"), f"{back}, {gone}"


def test_a_lost_phone_opens_nothing(host: Host, inside: Neighbour) -> None:
    """From the moment in which an administrator has made another second factor, which is recorded with their name."""
    door, began = Door(host, inside), since(host)
    now, later = door.codes("amina")["amina"]
    (before,) = door.knock(Knock("amina", "amina", now))
    assert before.verdict == "inside", f"control: the phone opens nothing anyway: {before}"
    try:
        made = host.check_output("SUDO_USER=salim practice enrol amina --new --yes --json")
        new = totp.code(enrol.seed_in(json.loads(made)["address"]), int(host.check_output("date +%s")) // totp.STEP)
        found, thief = door.knock(Knock("amina", "amina", new), Knock("amina", "amina", later))
        assert (found.verdict, thief.verdict) == ("inside", "refused"), f"{found}, {thief}"
        said = journal(host, began, "second factor of amina shown")
        assert "second factor of amina made, by salim" in said and "second factor of amina shown, by salim" in said, said
    finally:
        enrol.fetch_test_seeds(host.backend.shell, ["amina"])
