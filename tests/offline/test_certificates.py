"""What the server's scripts do with keys and passwords, tried where there is no server: the files are elsewhere, systemd is a list."""

from __future__ import annotations

import datetime
import grp
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from cryptography import x509

from kit.clinic import load
from kit.paths import ROOT
from roles.certificates import wanted


def script(name: str) -> ModuleType:
    """A script of files/ as a module, without leaving anything compiled beside it."""
    loader = importlib.machinery.SourceFileLoader(Path(name).stem, str(ROOT / "files" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))  # type: ignore[arg-type]
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The script, on directories of the test's own; `config` is what the VM's clinic asks for, `calls` what systemd was told."""
    module, calls = script("certificates/certificates.py"), []
    config = json.loads(json.dumps(wanted(load(ROOT / "clinics/vagrant.yaml"))))
    group = grp.getgrgid(os.getgid()).gr_name
    for leaf in config["leaves"].values():
        leaf["group"] = group
    for name in ("secrets", "tls"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(module, "ROOT", os.getuid())
    monkeypatch.setattr(module, "CONFIG", tmp_path / "config.json")
    monkeypatch.setattr(module, "KEY", tmp_path / "secrets/authority.key")
    monkeypatch.setattr(module, "TLS", tmp_path / "tls")
    monkeypatch.setattr(module, "AUTHORITY", tmp_path / "tls/authority.pem")
    monkeypatch.setattr(module, "FOUND", tmp_path / "run/found.json")
    monkeypatch.setattr(module, "APPLIED", tmp_path / "run/applied")
    monkeypatch.setattr(module.grp, "getgrnam", lambda _: SimpleNamespace(gr_gid=os.getgid()))
    closed = SimpleNamespace(volume=0, units=())

    def systemctl(command: list[str], check: bool) -> subprocess.CompletedProcess[str]:
        calls.append(" ".join(command[1:]))
        return subprocess.CompletedProcess(command, closed.volume if "is-active" in command else command[-1] in closed.units)

    monkeypatch.setattr(module.subprocess, "run", systemctl)

    def run(check: bool = False) -> int:
        module.CONFIG.write_text(json.dumps(config))
        return module.main(check)

    return SimpleNamespace(module=module, config=config, calls=calls, closed=closed, run=run, tls=tmp_path / "tls")


def serials(server: SimpleNamespace) -> dict[str, int]:
    return {path.stem: x509.load_pem_x509_certificate(path.read_bytes()).serial_number for path in server.tls.glob("*.pem")}


def test_who_does_not_take_a_new_one_is_named_and_holds_up_nobody(server: SimpleNamespace) -> None:
    """The next deploy knows who has taken it."""
    server.closed.units = ("postgresql@17-main.service",)
    with pytest.raises(server.module.Refused, match=r"postgresql@17-main\.service does not take its new certificate"):
        server.run()
    assert [path.name for path in server.module.APPLIED.iterdir()] == ["nginx.service"]


def test_made_once_and_then_left_alone(server: SimpleNamespace) -> None:
    """The second run finds nothing to do; --check says so before and after."""
    assert server.run(check=True) == 1
    assert server.run() == 0
    first = serials(server)
    assert sorted(first) == ["authority", "database", "web"]
    assert server.run(check=True) == 0
    assert server.run() == 0
    assert serials(server) == first
    assert [call for call in server.calls if "reload" in call] == [
        "try-reload-or-restart postgresql@17-main.service",
        "try-reload-or-restart nginx.service",
    ]
    # Else the next deploy would load once more what its service has loaded.
    assert sorted(path.name for path in server.module.APPLIED.iterdir()) == ["nginx.service", "postgresql@17-main.service"]


def test_what_was_found_in_order_is_known_until_it_changes(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other content, other rights, a further file, a clock that has moved: each asks for a new look."""
    server.run()
    assert not server.module.as_found()
    server.run(check=True)
    assert server.module.as_found()
    web = server.tls / "web.pem"
    for change, back in (
        (lambda: web.chmod(0o644), lambda: web.chmod(0o600)),
        (lambda: web.write_bytes(web.read_bytes() + b"\n"), lambda: web.write_bytes(web.read_bytes()[:-1])),
        ((server.tls / "more.pem").touch, (server.tls / "more.pem").unlink),
    ):
        change()
        assert not server.module.as_found()
        back()
        assert server.module.as_found()
    now = time.time()
    for days, known in ((-1, False), (366, True), (368, False)):
        monkeypatch.setattr(server.module.time, "time", lambda days=days: now + days * 86400)
        assert server.module.as_found() == known
    server.module.KEY.unlink()
    assert not server.module.as_found()


@pytest.mark.parametrize(("days_later", "renewed"), [(366, []), (368, ["database", "web"]), (500, ["database", "web"])])
def test_renewed_when_the_clock_has_moved(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, days_later: int, renewed: list[str]
) -> None:
    """397 days less 30: on day 366 nothing happens, on day 368 both are new, and so they are after a long time switched off."""
    server.run()
    before, today = serials(server), server.module.now()
    monkeypatch.setattr(server.module, "now", lambda: today + datetime.timedelta(days=days_later))
    assert server.run() == 0
    assert sorted(name for name, serial in serials(server).items() if before[name] != serial) == renewed


def test_the_last_year_of_the_authority_is_announced(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its end cannot be healed on the server alone: every workstation trusts it."""
    server.run()
    today = server.module.now()
    monkeypatch.setattr(server.module, "now", lambda: today + datetime.timedelta(days=3650 - 300))
    with pytest.raises(server.module.Refused, match="authority ends on"):
        server.run()


@pytest.mark.parametrize(("days", "says"), [(-365, "before the practice's authority was made"), (3651, "authority ended on")])
@pytest.mark.parametrize("lost", [False, True])
def test_with_a_wrong_clock_nothing_is_signed(
    server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, days: int, says: str, lost: bool
) -> None:
    """Good certificates stay, and not even a missing one is made; once the clock is right, there is nothing to do but to make that one."""
    server.run()
    if lost:
        (server.tls / "web.pem").unlink()
    before, today, calls = serials(server), server.module.now(), list(server.calls)
    monkeypatch.setattr(server.module, "now", lambda: today + datetime.timedelta(days=days))
    for check in (True, False):
        with pytest.raises(server.module.Refused, match=rf"this server's clock says .*{says}.*set the clock"):
            server.run(check=check)
    assert serials(server) == before
    assert [call for call in server.calls[len(calls) :] if "reload" in call] == []
    monkeypatch.setattr(server.module, "now", lambda: today)
    assert (server.run(check=True), server.run()) == (int(lost), 0)
    after = serials(server)
    assert [name for name in after if after[name] != before.get(name)] == ["web"] * lost


def test_a_certificate_made_with_a_clock_that_was_ahead_is_made_anew(server: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the authority's own time the clock is believed."""
    server.run()
    before, today = serials(server), server.module.now()
    monkeypatch.setattr(server.module, "now", lambda: today + datetime.timedelta(days=1000))
    assert server.run() == 0
    monkeypatch.setattr(server.module, "now", lambda: today)
    assert (server.run(check=True), server.run(), server.run(check=True)) == (1, 0, 0)
    assert [name for name, serial in serials(server).items() if before[name] == serial] == ["authority"]
    assert [path.name for path in server.tls.glob("*.pem") if server.module.read(path).not_valid_before_utc > today] == []


def test_no_key_is_born_beside_the_volume(server: SimpleNamespace) -> None:
    """While the volume is closed nothing is written."""
    server.closed.volume = 3
    with pytest.raises(server.module.Refused, match="not open"):
        server.run()
    assert serials(server) == {}


def test_a_lost_authority_is_not_replaced_in_silence(server: SimpleNamespace) -> None:
    """Every workstation would stop to trust the server: a person decides."""
    server.run()
    server.module.KEY.unlink()
    with pytest.raises(server.module.Refused, match="recovery kit"):
        server.run()


def test_a_key_whose_certificate_was_cut_off_is_used(server: SimpleNamespace) -> None:
    """Power failed between the two: the same key gets its certificate now."""
    server.run()
    key = server.module.KEY.read_bytes()
    server.module.AUTHORITY.unlink()
    assert server.run() == 0
    assert server.module.KEY.read_bytes() == key


def test_another_name_is_not_signed_for(server: SimpleNamespace) -> None:
    """The authority was made for certain names; a new one needs a new authority, and a person to say so."""
    server.run()
    server.config["leaves"]["web"]["names"] = ["bank.example"]
    with pytest.raises(server.module.Refused, match="may not sign for bank.example"):
        server.run()


@pytest.mark.parametrize("damage", ["rights", "key", "nothing", "nonsense"])
def test_what_is_wrong_with_a_certificate_is_seen(server: SimpleNamespace, damage: str) -> None:
    """Readable by others, not its key's, gone, or no certificate at all: it is made anew, and the other one stays."""
    server.run()
    web, database = server.tls / "web.pem", server.tls / "database.pem"
    before = serials(server)
    if damage == "rights":
        web.chmod(0o644)
    elif damage == "nothing":
        web.unlink()
    else:
        certificate, key = web.read_bytes().split(b"-----BEGIN PRIVATE")
        other = database.read_bytes().split(b"-----BEGIN PRIVATE")[1]
        web.write_bytes(certificate + b"-----BEGIN PRIVATE" + (other if damage == "key" else key[:20]))
    assert server.run(check=True) == 1
    assert server.run() == 0
    after = serials(server)
    assert [name for name in after if after[name] != before[name]] == ["web"]
    assert server.run(check=True) == 0


def test_the_verifier_is_the_one_that_postgresql_makes() -> None:
    """PostgreSQL 17 stored this for a password; ours is the same, and another password does not match it."""
    module = script("database/password")
    keys = "gfzdQ7/7Gp5qgkzTdFmWr9xZfW66VskXSvO80MHoAbs=:Azp2YHgqjpr9P3qI52ikwTbDx6vPm7kjSwYPZAm9m4s="
    stored = f"SCRAM-SHA-256$4096:8fitxb51ZAf7IOvPnuHh4Q==${keys}"
    assert module.matches("thirteen words of advice", stored)
    assert [other for other in ("thirteen words", "", "thirteen words of advice ") if module.matches(other, stored)] == []
    assert [text for text in ("", "md5c4ca4238a0b923820dcc509a6f75849b") if module.matches("thirteen words of advice", text)] == []
