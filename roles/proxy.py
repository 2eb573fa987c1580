"""proxy: the application is reached over TLS, under its own name, through nginx and in no other way.

Claims: WEB-01 to WEB-11.  Changes from Debian defaults: one configuration instead of sites; a certificate of the
practice's own authority, or one that the practice brings; no name or version of any software in an answer; a sandbox around nginx.
"""

from __future__ import annotations

import base64
from hashlib import sha256
from html import escape
from typing import Any

from pyinfra.api import deploy

from kit import operations as kit
from kit.clinic import Clinic, this_clinic
from kit.paths import ROOT
from kit.render import rendered
from roles.certificates import TLS, certificates

PACKAGES = ["nginx", "libnginx-mod-http-headers-more-filter", "procps"]

CONFIG = "/etc/nginx/nginx.conf"
PARTS = "/etc/nginx/cabinet"
CERTIFICATE = f"{TLS}/web.pem"
PAGES = "/usr/local/share/cabinet/pages"
DROP_INS = "/etc/systemd/system/nginx.service.d"
SAME_KEY = 'test "$(openssl x509 -in {} -noout -pubkey)" = "$(openssl pkey -in {} -pubout)"'

# What an answer says when the application behind does not say it itself. The policy forbids what no practice's application
# needs and an intruder's page would; it does not guess which scripts an application has.
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'self'; object-src 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), usb=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

CIPHERS = [
    f"ECDHE-{key}-{cipher}" for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305") for key in ("ECDSA", "RSA")
]

# Page: title, lines. `moved` is seen by nobody whose browser follows.
PAGE_TEXTS = {
    "ready": ("This server is ready.", ["It waits for the application of the practice.", "Nothing more has to be done here."]),
    "unavailable": (
        "The server is ready, its application is not.",
        ["The application behind this server is not running yet, or is being restarted.", "Try again in a minute."],
    ),
    "problem": (
        "This page cannot be shown.",
        ["The address may be misspelt, or the request is not allowed.", "If it happens again, tell whoever looks after this server."],
    ),
    "moved": ("This page has moved.", ["Its address begins with https://"]),
}


@deploy("proxy")
def proxy() -> None:
    """Certificate, pages, one configuration, one sandbox."""
    clinic = this_clinic()
    certificates(clinic, "WEB-05", "WEB-06")
    brought(clinic)
    policy = pages(clinic)
    configuration(clinic, policy)
    sandbox()


def brought(clinic: Clinic) -> None:
    """The certificate that the practice brings, with its key, in one file."""
    if clinic.proxy.certificate is None:
        return
    chain, key = (path.read_bytes().strip() for path in (clinic.proxy.certificate.chain, clinic.proxy.certificate.key))
    kit.config_file(
        name="WEB-05 install the certificate of the practice",
        dest=CERTIFICATE,
        content=chain + b"\n" + key + b"\n",
        mode="600",
        check=SAME_KEY,
    )


def pages(clinic: Clinic) -> str:
    """The few pages that are ours; returns the content policy that fits them and nothing else."""
    css = (ROOT / "files/proxy/page.css").read_text()
    for page, (title, lines) in PAGE_TEXTS.items():
        html = rendered("proxy/page.html.j2", page=page, title=title, lines=lines, css=css, practice=escape(clinic.practice))
        kit.config_file(name=f"WEB-08 show a page that names no software: {page}", dest=f"{PAGES}/{page}.html", content=html)
    digest = base64.b64encode(sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def configuration(clinic: Clinic, policy: str) -> None:
    """Parts that carry one claim each, and the file that names them all. What nginx cannot read it does not load: the old one goes on."""
    lan = clinic.network.lan
    addresses = [str(lan.address.ip), *([f"[{lan.address6.ip}]"] if lan.address6 else [])]
    part("WEB-02 speak TLS 1.2 and 1.3", "tls", template="proxy/tls.conf.j2", ciphers=CIPHERS, certificate=CERTIFICATE)
    part("WEB-03 agree on keys by the hybrid first", "groups", src="proxy/groups.conf")
    part("WEB-04 tell browsers what to forbid", "headers", template="proxy/headers.conf.j2", headers=HEADERS)
    part("WEB-07 hand on requests and what is true of them", "application", src="proxy/application.conf")
    part("WEB-08 say nothing about ourselves", "silence", src="proxy/silence.conf")
    part("WEB-09 refuse other names", "strangers", src="proxy/strangers.conf")
    part("WEB-10 log no query strings", "log", src="proxy/log.conf")
    kit.config_file(
        name="WEB-01 answer by TLS alone",
        dest=CONFIG,
        template="proxy/nginx.conf.j2",
        check="nginx -t -q -c {}",
        parts=["tls", "groups", "headers", "silence", "strangers", "log"],
        names=[*clinic.proxy.names, *addresses],
        upstream=clinic.proxy.upstream,
        headers=list(HEADERS),
        page_policy=policy,
        pages=PAGES,
    )


def part(name: str, topic: str, **source: Any) -> None:
    """One part of the configuration."""
    kit.config_file(name=name, dest=f"{PARTS}/{topic}.conf", **source)


def sandbox() -> None:
    """What systemd lets nginx do; then it runs, as described."""
    reload = "/usr/local/lib/cabinet/nginx-reload"
    kit.config_file(name="WEB-01 let a reload end when it is done", dest=reload, src="proxy/nginx-reload", check=kit.PARSES, mode="755")
    kit.config_file(name="WEB-11 put nginx into a sandbox", dest=f"{DROP_INS}/cabinet.conf", src="proxy/nginx.service.conf")
    kit.script(
        name="WEB-11 let nothing else change the sandbox",
        unless=f'test "$(systemctl show -P DropInPaths nginx.service)" = {DROP_INS}/cabinet.conf',
        run=f"""for path in $(systemctl show -P DropInPaths nginx.service); do
    case $path in {DROP_INS}/cabinet.conf) ;; /etc/* | /run/*) set_aside "$path"; rm -f "$path" ;; esac
done
touch {DROP_INS}  # newer than what runs: the next operation restarts it
systemctl daemon-reload""",
    )
    kit.unit(name="WEB-11 run nginx in it", unit="nginx.service", config=[DROP_INS])
    kit.unit(name="WEB-01 answer as described", unit="nginx.service", config=[CONFIG, PARTS, CERTIFICATE], reload=True)
