"""proxy: what a computer in the practice's LAN is answered, and what not. Asked from the neighbour, except where its OpenSSL is too old."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path

import pytest
from testinfra.host import Host

from kit.clinic import Clinic
from kit.facts import APPLIED
from kit.neighbour import Neighbour
from tests.claim import claim
from tests.workstation import STRANGER, Workstation, application

RELOAD = "systemctl reload nginx"
TLS = "/var/lib/cabinet/tls"
PARTS = "/etc/nginx/cabinet"


@pytest.fixture
def workstation(host: Host, clinic: Clinic, inside: Neighbour, tmp_path: Path) -> Workstation:
    """It got the authority's certificate from the server, over the technician's connection."""
    authority = tmp_path / "authority.pem"
    authority.write_text(host.check_output(f"cat {TLS}/authority.pem") + "\n")
    return Workstation(inside, clinic, authority)


def answered_in_the_clear(host: Host) -> None:
    host.check_output(f"sed -i 's/return 402;/return 200 welcome;/' /etc/nginx/nginx.conf; {RELOAD}")


@claim("WEB-01", broken_by=answered_in_the_clear, symptom="welcome")
def test_without_tls_there_is_nothing_but_the_way_to_tls(workstation: Workstation) -> None:
    """Every path, by every method, under the name and under the address, is sent to the same place over TLS; the page there answers."""
    name, address = workstation.name, workstation.address
    show = "-o /dev/null -w '%{http_code} %{redirect_url}\\n'"
    asked = [f"http://{name}/", f"-d secret=1 http://{name}/login", f"-X PUT http://{name}/a/b?c=d", f"http://{address}/x"]
    answers = workstation.curl(*(f"{show} {url}" for url in asked)).splitlines()
    body = workstation.curl(f"http://{name}/")
    assert "moved" in body, body
    assert answers == [f"308 https://{name}/", f"308 https://{name}/login", f"308 https://{name}/a/b?c=d", f"308 https://{address}/x"]
    assert workstation.curl(f"-o /dev/null -w '%{{scheme}}' https://{name}/").upper() == "HTTPS"


def old_protocols_let_in(host: Host) -> None:
    host.check_output(f"sed -i 's/ssl_protocols/ssl_protocols TLSv1.1/; s/ssl_ciphers /&ALL:@SECLEVEL=0:/' {PARTS}/tls.conf; {RELOAD}")


GOOD = ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
SAME_FOR_RSA = [cipher.replace("ECDSA", "RSA") for cipher in GOOD]


@claim("WEB-02", broken_by=old_protocols_let_in, symptom="TLSv1.0 ")
def test_only_current_protocols_and_ciphers(workstation: Workstation) -> None:
    """TLS 1.3, and 1.2 with three ciphers. A client that offers all others that OpenSSL knows, or an older version, is refused."""
    others = ":".join(["ALL", "COMPLEMENTOFALL", *(f"!{cipher}" for cipher in GOOD + SAME_FOR_RSA), "@SECLEVEL=0"])
    old = [f"{version} -cipher ALL:@SECLEVEL=0" for version in ("-tls1", "-tls1_1")]
    refused = workstation.handshake(*old, f"-tls1_2 -cipher {others}")
    assert refused == ["refused"] * 3
    accepted = workstation.handshake("-tls1_3", *(f"-tls1_2 -cipher {cipher}" for cipher in GOOD))
    assert accepted == ["TLSv1.3 TLS_AES_256_GCM_SHA384", *(f"TLSv1.2 {cipher}" for cipher in GOOD)]


def hybrid_taken_away(host: Host) -> None:
    host.check_output(f"sed -i 's/X25519MLKEM768://' {PARTS}/groups.conf; {RELOAD}")


@claim("WEB-03", broken_by=hybrid_taken_away, symptom="X25519MLKEM768")
def test_keys_are_agreed_on_by_the_hybrid(host: Host, workstation: Workstation) -> None:
    """Who knows X25519MLKEM768 gets it, unasked too; who does not gets a curve; another one is refused.

    The server's own OpenSSL asks, because the technician's may be too old.
    """
    offers = {"": "X25519MLKEM768", "-groups X25519MLKEM768": "X25519MLKEM768", "-groups X25519": "X25519", "-groups P-521:ffdhe2048": ""}
    ask = f"openssl s_client -connect {workstation.address}:443 -servername {workstation.name} %s </dev/null 2>/dev/null"
    pick = "sed -n 's/^Negotiated TLS1.3 group: //p; s/^Peer Temp Key: \\([^,]*\\).*/\\1/p' | sed 's/<NULL>//' | head -1"
    agreed = host.check_output("\n".join(f'echo "$({ask % offer} | {pick})"' for offer in offers)).split("\n")
    assert dict(zip(offers, agreed + [""] * 4, strict=False)) == offers


def header_forgotten(host: Host) -> None:
    host.check_output(f"sed -i 's/\"Strict-Transport-Security: max-age=63072000\"//' /etc/nginx/nginx.conf; {RELOAD}")


@claim("WEB-04", broken_by=header_forgotten, symptom="strict-transport-security")
def test_browsers_are_told_what_to_forbid(host: Host, clinic: Clinic, workstation: Workstation) -> None:
    """On each answer, be it the application's or one of our own: TLS for two years, no frames, no guessing, nothing to other sites."""
    wanted = {
        "strict-transport-security": r"max-age=63072000",
        "x-content-type-options": r"nosniff",
        "x-frame-options": r"DENY|SAMEORIGIN",
        "referrer-policy": r"no-referrer|same-origin|strict-origin",
        "content-security-policy": r".*(frame-ancestors '(none|self)'|default-src).*",
        "permissions-policy": r".*camera=.*",
        "cross-origin-opener-policy": r"same-origin",
        "cross-origin-resource-policy": r"same-origin",
    }
    with application(host, clinic):
        answers = {"application": workstation.curl(f"-D - -o /dev/null https://{workstation.name}/")}
    answers["error"] = workstation.curl(f"-D - -o /dev/null -H 'Content-Length: 999999999' -d '' https://{workstation.name}/")
    assert [answer.split()[1] for answer in answers.values()] == ["200", "413"], answers
    lacking = [
        (what, header)
        for what, answer in answers.items()
        for header, value in wanted.items()
        if not re.search(f"(?im)^{header}: ({value})\r?$", answer)
    ]
    assert lacking == []


def certificate_of_a_stranger(host: Host) -> None:
    host.check_output(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x"
        f" -keyout {TLS}/web.pem -out /run/x.pem 2>&1; cat /run/x.pem >> {TLS}/web.pem; {RELOAD}"
    )


@claim("WEB-05", broken_by=certificate_of_a_stranger, symptom="is not trusted")
def test_the_certificate_is_right(host: Host, workstation: Workstation) -> None:
    """Who trusts the authority of the practice trusts the server, by name and by address; nobody else does; it vouches for nothing else."""
    name, address = workstation.name, workstation.address
    show = "-o /dev/null -w '%{ssl_verify_result} %{exitcode}\\n'"
    trusted = workstation.curl(f"{show} https://{name}/", f"{show} https://{address}/").split()
    assert trusted == ["0"] * 4, f"{name} is not trusted: {trusted}"
    assert workstation.curl(f"{show} --capath /nowhere --cacert /etc/hostname https://{name}/").split()[1] != "0", (
        "trusted without a reason"
    )
    days = host.check_output(
        f"python3 -IB -c %s {TLS}/web.pem",
        "import sys; from cryptography import x509; c = x509.load_pem_x509_certificate(open(sys.argv[1], 'rb').read());"
        "print((c.not_valid_after_utc - c.not_valid_before_utc).days)",
    )
    assert int(days) <= 397
    assert host.check_output(f"stat -c %a:%U {TLS}/web.pem /var/lib/cabinet/secrets/authority.key").split() == ["600:root", "600:root"]
    forged = host.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null"
        f" -CA {TLS}/authority.pem -CAkey /var/lib/cabinet/secrets/authority.key"
        f" -subj /CN={STRANGER} -addext subjectAltName=DNS:{STRANGER} 2>/dev/null | openssl verify -CAfile {TLS}/authority.pem 2>&1"
    )
    assert "permitted subtree violation" in forged.stdout


# Certificates as they will be in a year: `leaf=days` that are left. Moving the server's own clock instead would run every timer it has.
AGED = """
import sys, json, datetime
sys.path.insert(0, "/usr/local/lib/cabinet")
import certificates as c
config = json.loads(c.CONFIG.read_text())
key, authority = c.the_authority(config)
for leaf, days in (word.split("=") for word in sys.argv[1:]):
    c.issue(leaf, config["leaves"][leaf], key, authority, c.now() - datetime.timedelta(days=c.LEAF_DAYS - int(days)))
"""
DAYS_LEFT = (
    "end=$(openssl x509 -in /var/lib/cabinet/tls/{leaf}.pem -noout -enddate | cut -d= -f2);"
    ' echo $(( ($(date -d "$end" +%%s) - $(date +%%s)) / 86400 ))'  # doubled: testinfra formats the command
)
SERVED = {
    "web": "openssl s_client -connect {address}:443 -servername {name}",
    "database": "openssl s_client -starttls postgres -connect 127.0.0.1:5432",
}
UNITS = {"web": "nginx.service", "database": "postgresql@17-main.service"}


def nobody_renews(host: Host) -> None:
    host.check_output("systemctl stop practice-tls-renew.timer")


@claim("WEB-06", broken_by=nobody_renews, symptom="nobody looks")
def test_certificates_are_renewed_in_time(host: Host, clinic: Clinic, workstation: Workstation) -> None:
    """The daily look renews what has 29 days left, and the new one is served; what has 33 days left it leaves alone."""
    looks = json.loads(host.check_output("systemctl list-timers --output=json practice-tls-renew.timer"))
    now = int(host.check_output("date +%s"))
    assert [look for look in looks if look["next"] and look["next"] / 1e6 - now < 25 * 3600], "nobody looks at the certificates tomorrow"
    old, *young = ["web", "database"] if clinic.proxy.certificate is None else ["database"]
    serial = "openssl x509 -noout -serial"
    said = host.check_output(
        "\n".join(
            [
                *(f"cp -a {TLS}/{leaf}.pem /run/{leaf}.pem" for leaf in young),
                f"python3 -IB -c %s {old}=29 {' '.join(f'{leaf}=33' for leaf in young)} >/dev/null",
                "systemctl start practice-tls-renew.service; sleep 0.5",
                *(DAYS_LEFT.format(leaf=leaf) for leaf in (old, *young)),
                f"{serial} < {TLS}/{old}.pem",
                f"{SERVED[old].format(address=workstation.address, name=workstation.name)} </dev/null 2>/dev/null | {serial}",
                *(f"mv /run/{leaf}.pem {TLS}/{leaf}.pem; systemctl reload {UNITS[leaf]}" for leaf in young),
            ]
        ),
        AGED,
    ).split()
    assert said[:-2] == ["396", *("32" for _ in young)], "days that are left"
    assert said[-2] == said[-1], "what is served is not what was renewed"
    assert host.check_output("systemctl show -P Result practice-tls-renew.service") == "success", "the look did not come to its end"
    assert host.run(f"[ {APPLIED}/{UNITS[old]} -nt {TLS}/{old}.pem ]").rc == 0, "the next deploy does not know that it is served"


def way_around_tls(host: Host) -> None:
    host.check_output(f"sed -i 's|return 402;|proxy_pass http://127.0.0.1:8000;|' /etc/nginx/nginx.conf; {RELOAD}")


@claim("WEB-07", broken_by=way_around_tls, symptom="without TLS")
def test_the_application_is_reached_through_the_proxy_alone(
    host: Host, clinic: Clinic, inside: Neighbour, workstation: Workstation
) -> None:
    """Over TLS it answers; without TLS and at its own port it does not, although it listens there on all addresses. It learns who asks."""
    port = int((clinic.proxy.upstream or ":8000").rpartition(":")[2])
    with application(host, clinic):
        through = workstation.curl(
            f"-w '\\n%{{http_code}}' -H 'X-Forwarded-For: 203.0.113.9' -H 'X-Real-IP: 203.0.113.9' https://{workstation.name}/"
        )
        around = workstation.curl(f"-o /dev/null -w '%{{http_code}}' http://{workstation.name}/")
        direct = [ipv6 for ipv6 in (False, True) if inside.reaches(port, ipv6=ipv6)]
    assert through.splitlines()[-1] == "200", f"control: not even over TLS: {through}"
    assert around == "308", f"the application answers without TLS: {around}"
    assert direct == [], "the application answers at its own port"
    assert "203.0.113.9" not in through, "a workstation passed for another one"
    loaded = host.check_output("nginx -T 2>/dev/null | sed -n 's/^# configuration file \\(.*\\):$/\\1/p' | sort -u").split()
    parts = ("application", "groups", "headers", "log", "silence", "strangers", "tls")
    assert loaded == sorted(["/etc/nginx/nginx.conf", "/etc/nginx/mime.types", *(f"{PARTS}/{part}.conf" for part in parts)])
    listening = host.check_output("ss -Hltnp | grep '\"nginx\"' | awk '{print $4}' | sort -u").split()
    assert listening == sorted(["0.0.0.0:80", "0.0.0.0:443", "[::]:80", "[::]:443"])


def proud_of_its_software(host: Host) -> None:
    host.check_output(f"sed -i '/more_clear_headers/d' {PARTS}/silence.conf; {RELOAD}")


@claim("WEB-08", broken_by=proud_of_its_software, symptom="nginx")
def test_it_says_nothing_about_itself(host: Host, clinic: Clinic, inside: Neighbour, workstation: Workstation) -> None:
    """Neither its answers nor its error pages name a product or a version, and what the application boasts of is taken away."""
    name = workstation.name
    with application(host, clinic):
        said = {"application": workstation.curl(f"-D - -o /dev/null https://{name}/")}
    said["no application"] = workstation.curl(f"-i https://{name}/")
    said["too large"] = workstation.curl(f"-i -H 'Content-Length: 999999999' -d '' https://{name}/")
    said["redirect"] = workstation.curl(f"-i http://{name}/")
    said["nonsense"] = inside.run(
        f"printf 'NONSENSE\\r\\n\\r\\n' | timeout 10 openssl s_client -quiet -connect {workstation.address}:443 -servername {name}"
    ).stdout
    said["plain to the TLS port"] = inside.run(
        f"printf 'GET / HTTP/1.0\\r\\nHost: {name}\\r\\n\\r\\n' | timeout 3 curl -s telnet://{workstation.address}:443"
    ).stdout
    assert [what for what, answer in said.items() if not answer.startswith("HTTP/")] == [], f"control: no answer: {said}"
    boast = re.compile(r"nginx|openresty|openssl|debian|boastful|python|^server:|^x-powered-by:|^via:", re.IGNORECASE | re.MULTILINE)
    assert {what: boast.findall(answer) for what, answer in said.items() if boast.search(answer)} == {}


def any_name_answered(host: Host) -> None:
    host.check_output(f"truncate -s 0 {PARTS}/strangers.conf; {RELOAD}")


@claim("WEB-09", broken_by=any_name_answered, symptom="is answered as another.example")
def test_it_answers_to_its_own_names_alone(workstation: Workstation) -> None:
    """A foreign name gets no handshake; inside a connection, or without TLS, it gets no answer. Its own names do."""
    show = "-o /dev/null -w '%{http_code} '"
    name = workstation.name
    foreign = workstation.curl(
        f"-k {show} https://{STRANGER}/",
        f"{show} -H 'Host: {STRANGER}' https://{name}/",
        f"{show} http://{STRANGER}/",
        f"-0 {show} -H 'Host:' http://{name}/",
    )
    own = workstation.curl(f"{show} http://{name}/", f"{show} http://{workstation.address}/")
    assert own.split() == ["308", "308"]
    assert foreign.split() == ["000"] * 4, f"it is answered as {STRANGER}: {foreign}"


def query_strings_logged(host: Host) -> None:
    host.check_output(f"sed -i 's/\\$host\\$path/$host$request_uri/' {PARTS}/log.conf; {RELOAD}")


@claim("WEB-10", broken_by=query_strings_logged, symptom="canary")
def test_the_log_holds_no_query_strings(host: Host, clinic: Clinic, workstation: Workstation) -> None:
    """Requests are written down, whatever became of them; what stands behind the question mark, and where they came from, is not."""
    nonce = uuid.uuid4().hex
    asked = f"/seen-{nonce}?patient=canary-{nonce}"
    urls = [
        f"https://{workstation.name}{asked}",
        f"http://{workstation.name}{asked}",
        f"-H 'Host: {STRANGER}' http://{workstation.address}{asked}",
    ]
    with application(host, clinic):
        workstation.curl(f"-o /dev/null -e 'https://{workstation.name}/?canary-{nonce}' {urls[0]}")
    workstation.curl(*(f"-o /dev/null {url}" for url in urls))
    assert int(host.check_output(f"grep -c seen-{nonce} /var/log/nginx/access.log")) == 4, "control: requests are not logged"
    assert host.run(f"grep -rhF canary-{nonce} /var/log/nginx; journalctl -q -u nginx --since -1min | grep canary-{nonce}").stdout == ""


def sandbox_opened(host: Host) -> None:
    host.check_output(
        "printf '[Service]\\nProtectSystem=no\\nInaccessiblePaths=\\n' > /etc/systemd/system/nginx.service.d/zz.conf;"
        " systemctl daemon-reload; systemctl restart nginx"
    )


@claim("WEB-11", broken_by=sandbox_opened, symptom="/etc can be written")
def test_who_breaks_into_the_proxy_finds_nothing(host: Host) -> None:
    """Seen with nginx's own eyes, as root: the system cannot be written to, keys and records are not there, and no rights can be gained."""
    inside_it = "nsenter --target $(systemctl show -P MainPID nginx) --mount"
    assert host.run("find /var/lib/cabinet/secrets /var/lib/postgresql -type f | head -1").stdout, "control: there is something to find"
    found = host.run(
        f"{inside_it} sh -c 'for place in /etc /usr /boot /root /home /var/lib/cabinet /srv; do"
        " if touch $place/.probe 2>/dev/null; then rm $place/.probe; echo $place can be written; fi; done;"
        " find /var/lib/cabinet/secrets /var/lib/postgresql /srv/documents /home /root -type f 2>/dev/null | head -3'"
    )
    assert found.stdout.splitlines() == [], found.stdout
    status = dict(
        line.split(":\t", 1)
        for line in host.check_output("cat /proc/$(systemctl show -P MainPID nginx)/status").splitlines()
        if ":\t" in line
    )
    # CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, NET_BIND_SERVICE
    assert (status["NoNewPrivs"], status["Seccomp"], int(status["CapBnd"], 16)) == (
        "1",
        "2",
        1 << 0 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10,
    )
