"""alarm: what is wrong reaches a person outside the server, encrypted, once, also when that takes a while; and silence is noticed."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from kit import post
from kit.clinic import Clinic
from kit.neighbour import ADDRESS, Neighbour
from practice.alarm import UNSENT
from roles.alarm import ACCOUNT, CONFIG, MSMTPRC, WAY
from tests.ask import answers
from tests.claim import claim
from tests.postbox import HTTPS_PORT, SMTP_PORT, Postbox, postbox

# What an alarm may say on the server, and never outside.
PATIENT = "Nadia Bouzid, hepatitis"
# How the subject of a mail about an alarm ends that the server has no words for. Others may be on their way: a sign of life.
UNKNOWN = ": The server says that something needs a person."
OUTBOX = "/var/lib/cabinet/outbox"
SENDER = "practice-send.service"
# Whoever sends already is waited for.
SENT = f"systemctl start {SENDER}"
# Nothing waits, and nobody is about to send: a start that was on its way already is waited for, another one finds nothing to do.
QUIET = f"systemctl stop {SENDER}; rm -f {OUTBOX}/*.json {UNSENT}; {SENT}"
# The time to try again has come, and the timer does what it does.
LATER = f"sed -i 's/\"due\": [0-9.]*/\"due\": 0/' {OUTBOX}/*.json && {SENT}"


@pytest.fixture
def network(pytestconfig: pytest.Config, clinic: Clinic) -> None:
    """In the tests' LAN we are the mail server and the webhook; those of a practice are asked on its server."""
    if clinic.alarm is None:
        pytest.fail("alarms reach nobody outside this server: its clinic file has no section alarm", pytrace=False)
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test is the mail server itself: it runs on the VM alone. On this server: sudo practice alarm test", pytrace=False)


@pytest.fixture
def probe(host: Host, network: None) -> Iterator[str]:
    """The key of an alarm that was never told of; nothing older waits to be delivered."""
    key = f"probe:{time.time_ns()}"
    host.check_output(QUIET)
    yield key
    host.check_output(f"! grep -q {key} /var/lib/cabinet/alarms.json || practice alarm clear {key}")
    host.check_output(QUIET)


def wrong(host: Host, key: str) -> None:
    """Something is found to be wrong."""
    host.check_output(f"practice alarm raise {key} {shlex.quote(PATIENT)}")


def right(host: Host, key: str) -> None:
    """It is right again."""
    host.check_output(f"practice alarm clear {key}")


def mailed(box: Postbox, clinic: Clinic, *words: str) -> list[tuple[str, str]]:
    """Which mails came about an unknown alarm, by their first word and whom they went to, as soon as all are there or the time is over."""
    mails = box.wait("mail", len(words) * len(clinic.alarm.mail.to), subject=UNKNOWN)
    said = [(mail["headers"]["Subject"].partition("] ")[2].removesuffix(UNKNOWN), mail["to"]) for mail in mails]
    return sorted((word, to) for word, all_of_them in said for to in all_of_them)


def expected(clinic: Clinic, *words: str) -> list[tuple[str, str]]:
    """One mail of each kind to each address of the clinic file."""
    return sorted((word, to) for word in words for to in clinic.alarm.mail.to)


def secured_from_its_reader(host: Host) -> None:
    host.check_output(f"chown root:root {MSMTPRC}")


@claim("ALM-01", broken_by=secured_from_its_reader, symptom="told were []")
def test_an_alarm_arrives_by_mail(host: Host, clinic: Clinic, inside: Neighbour, probe: str) -> None:
    """Raised twice and then over: one mail of each kind to each address. It says where, what, since when and what to do; no more."""
    with postbox(inside) as box:
        wrong(host, probe)
        wrong(host, probe)
        arrived = mailed(box, clinic, "ALARM")
        assert arrived == expected(clinic, "ALARM"), f"told were {arrived}"
        right(host, probe)
        assert mailed(box, clinic, "ALARM", "over") == expected(clinic, "ALARM", "over")
        mails, (first, *_) = box.heard("mail"), box.heard("mail", subject=UNKNOWN)
    sender, user = clinic.alarm.mail.sender, clinic.alarm.mail.login.user
    assert {(mail["sender"], mail["user"], mail["tls"]) for mail in mails} == {(sender, user, True)}
    text = first["text"]
    assert [word for word in (clinic.hostname, clinic.practice, "Since:           20", "What to do:") if word not in text] == [], text
    assert [word for word in (*PATIENT.replace(",", "").split(), probe) if word in json.dumps(mails)] == [], "it says more than it may"


def certificates_no_longer_checked(host: Host) -> None:
    host.check_output(f"sed -i 's/^tls_certcheck on/tls_certcheck off/' {MSMTPRC}")


@claim("ALM-02", broken_by=certificates_no_longer_checked, symptom="a stranger was told")
def test_a_server_that_is_not_trusted_is_told_nothing(host: Host, clinic: Clinic, inside: Neighbour, probe: str) -> None:
    """Without TLS, or with somebody else's certificate, it hears no password, no sender and no mail; the right one then hears it all."""
    for server in ({"encryption": "none"}, {"trusted": False}):
        with postbox(inside, **server) as stranger:
            (right if server.get("trusted") is False else wrong)(host, probe)
            assert stranger.wait("hello"), f"control: {server} was not even asked"
            host.check_output(SENT)
            heard = [stranger.heard(event) for event in ("password", "sender", "mail")]
        assert heard == [[], [], []], f"a stranger was told: {server}"
    with postbox(inside) as box:
        done = host.run("practice alarm test")
        assert (done.rc, done.stdout.count(": taken")) == (0, len(clinic.alarm.mail.to) + 1), f"control: {done.stdout}"
        assert mailed(box, clinic, "ALARM", "over") == expected(clinic, "ALARM", "over"), "control: the right one was not told"


def webhook_muted(host: Host) -> None:
    host.check_output(f"sed -i 's/\"webhook\"/\"muted\"/' {CONFIG}")


@claim("ALM-03", broken_by=webhook_muted, symptom="the webhook heard nothing")
def test_the_webhook_hears_of_it(host: Host, clinic: Clinic, inside: Neighbour, probe: str) -> None:
    """One request when it is raised, with the secret that it was given; a server with somebody else's certificate hears nothing."""
    with postbox(inside) as box:
        wrong(host, probe)
        hooks = box.wait("hook")
        assert hooks, "the webhook heard nothing"
    secret = post.given(post.HEADER).read_text().strip().partition(": ")[2]
    assert [(hook["path"], hook["header"], hook["body"]["state"]) for hook in hooks] == [("/alarm", secret, "raised")]
    assert hooks[0]["body"]["server"] == clinic.hostname and "Nadia" not in json.dumps(hooks)
    with postbox(inside, trusted=False) as stranger:
        right(host, probe)
        host.check_output(SENT)
        assert stranger.heard("hook") == [], "a stranger heard of it"


def no_second_try(host: Host) -> None:
    host.check_output("systemctl stop practice-send.timer")


@claim("ALM-04", broken_by=no_second_try, symptom="nobody tries again")
def test_what_cannot_be_delivered_is_delivered_later(host: Host, clinic: Clinic, inside: Neighbour, probe: str) -> None:
    """Nobody is there: it waits. Somebody is there again: all get it, once, and nothing waits any more."""
    waits = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersCalendar practice-send.timer")
    assert all(word in waits for word in ("ActiveState=active", "UnitFileState=enabled", "OnCalendar=*-*-* *:00/5:")), (
        f"nobody tries again: {waits}"
    )
    inside.up()  # a port where nothing listens says so; a computer that is off takes its time
    wrong(host, probe)
    host.check_output(SENT)
    with postbox(inside) as box:
        host.check_output(LATER)
        assert mailed(box, clinic, "ALARM") == expected(clinic, "ALARM"), "it was not delivered later, or more than once"
        assert [hook["body"]["state"] for hook in box.wait("hook")] == ["raised"]
    assert host.run(f"ls {OUTBOX}").stdout == "", "something still waits"


def door_left_ajar(host: Host) -> None:
    host.check_output(f"echo 'let_out {ADDRESS} 4711' >> {WAY}")


@claim("ALM-05", broken_by=door_left_ajar, symptom="@4711")
def test_nobody_else_gets_out_this_way(host: Host, inside: Neighbour, network: None) -> None:
    """While something is sent, its account reaches the servers of the clinic file and nothing else; everybody else reaches nothing."""
    servers = [f"tcp@{ADDRESS}@{port}" for port in (SMTP_PORT, HTTPS_PORT)]
    host.check_output(QUIET)  # whoever ends to send shuts the door
    with inside.listening(SMTP_PORT), inside.listening(HTTPS_PORT), inside.listening(4711):
        host.check_output(f"{WAY} open")
        places = [*servers, f"tcp@{ADDRESS}@4711"]
        control, *tried = [f"{user}@{place}" for user in (ACCOUNT, "root", "nobody", "_apt") for place in places]
        heard = answers(lambda words: host.check_output(shlex.join(words)), control, *tried)
        host.check_output(f"{WAY} close")
        assert heard == sorted(f"{ACCOUNT}@{server}" for server in servers), f"got out: {heard}"
        closed = host.run(f"setpriv --reuid {ACCOUNT} --clear-groups timeout 2 bash -c '</dev/tcp/{ADDRESS}/{SMTP_PORT}'")
        assert closed.rc != 0, "the way stays open when nothing is sent"


def silence_unnoticed(host: Host) -> None:
    host.check_output("systemctl stop practice-silence.timer")


@claim("ALM-06", broken_by=silence_unnoticed, symptom="nobody notices")
def test_a_server_that_stops_looking_at_itself_is_noticed(host: Host) -> None:
    """Every hour; when the watch has seen nothing for an hour, that is an alarm at once, and none when it looks again."""
    waits = host.check_output("systemctl show -p ActiveState,UnitFileState,TimersMonotonic practice-silence.timer")
    assert all(word in waits for word in ("ActiveState=active", "UnitFileState=enabled", "OnUnitActiveUSec=1h")), f"nobody notices: {waits}"
    seen = "/run/cabinet/status.json"
    host.check_output(f"touch {seen} && systemctl start practice-silence.service")
    try:
        silent = host.run(f"touch -d '61 minutes ago' {seen}; systemctl start practice-silence.service")
        assert silent.rc != 0, "an hour's silence is not noticed"
        listed = "grep -q unit:practice-silence.service /var/lib/cabinet/alarms.json"
        assert host.run(f"for i in $(seq 50); do {listed} && exit; sleep 0.1; done; exit 1").rc == 0, "it raises no alarm"
    finally:
        host.check_output(f"touch {seen} && systemctl start practice-silence.service practice-watch.service")
    assert host.run(listed).rc == 1, "the alarm stays although the server looks at itself"


def sender_removed(host: Host) -> None:
    host.check_output(f"rm /etc/systemd/system/{SENDER} && systemctl daemon-reload")


@claim("ALM-07", broken_by=sender_removed, symptom="no sign of life")
def test_the_server_says_that_it_is_alive(host: Host, clinic: Clinic, inside: Neighbour, probe: str) -> None:
    """The first look of a day tells the webhook, and the first of a week everybody."""
    with postbox(inside) as box:
        host.check_output("touch -d '8 days ago' /var/lib/cabinet/alive && systemctl restart practice-watch.service")
        alive = len(box.wait("hook", state="alive"))  # the last one to be told
        mailed_to = sorted(to for mail in box.heard("mail") if "] alive: " in mail["headers"]["Subject"] for to in mail["to"])
    assert (alive, mailed_to) == (1, sorted(clinic.alarm.mail.to)), f"no sign of life: {alive} {mailed_to}"
