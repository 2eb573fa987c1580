"""The VM's state directory goes by the checkout's path: what an earlier checkout left there is removed, never taken over."""

from __future__ import annotations

import pytest

from kit import machines, paths, twin, vm
from kit.host import HostError
from tests import conftest


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine in a state directory of its own; what it would start, it notes."""
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    monkeypatch.setenv("CABINET_STATE", str(tmp_path / "s"))
    monkeypatch.setattr(vm, "ROOT", checkout)
    monkeypatch.setattr(paths, "LONGEST_STATE", 200)
    machine = vm.Machine()
    machine.done = []
    for name in ("_prepare", "_vagrant_up", "wait_for_ssh", "_replace_key", "start"):
        monkeypatch.setattr(machine, name, lambda name=name: machine.done.append(name))
    monkeypatch.setattr(machine, "_virsh", lambda *words, **_: machine.done.append(f"virsh {words[0]}"))
    for name in ("up", "down"):
        monkeypatch.setattr(machine.neighbour, name, lambda: None)
    return machine


def test_a_machine_of_this_checkout_is_only_started(machine):
    machine.up()
    machine.done.clear()
    machine.up()
    assert machine.done == ["start"]


def test_what_an_earlier_checkout_left_is_removed_first(machine):
    machine.up()
    (machine.state / "vagrant").mkdir()
    (machine.state / "disks").mkdir()
    (machine.state / "ssh").mkdir()
    (machine.state / "ssh/vagrant.known_hosts").write_text("old")
    (machine.state / "ssh/meier.known_hosts").write_text("a real clinic's")
    vm._remove(vm.ROOT / ".vagrant")  # the checkout was removed, and another one was made where it lay
    machine.done.clear()
    assert not machine.created()
    machine.up()
    assert machine.done[:2] == ["virsh destroy", "virsh undefine"]
    assert machine.done[-1] == "_replace_key"
    assert not (machine.state / "disks").exists()
    assert sorted(path.name for path in (machine.state / "ssh").iterdir()) == ["meier.known_hosts"]
    assert machine.created()


def test_a_copys_description_names_nothing_of_the_originals():
    """Paths and ports that look alike are told apart, and no snapshot before its own is named."""
    original = (
        "<domainsnapshot><parent>\n<name>clean</name>\n</parent><source file='/s/1/disks/a'/><x file='/s/1-2/b'/>"
        "hostfwd=tcp:127.0.0.1:2000-:22,hostfwd=tcp:127.0.0.1:2001-:443"
    )
    moved = {"/s/1/": "/s/1-2/", "tcp:127.0.0.1:2000-": "tcp:127.0.0.1:2001-", "tcp:127.0.0.1:2001-": "tcp:127.0.0.1:2002-"}
    assert twin.its_own(original, moved) == (
        "<domainsnapshot><source file='/s/1-2/disks/a'/><x file='/s/1-2/b'/>"
        "hostfwd=tcp:127.0.0.1:2001-:22,hostfwd=tcp:127.0.0.1:2002-:443"
    )


def test_another_machine_of_a_checkout_is_another_machine(machine, monkeypatch):
    """Its state lies beside ours, and so its ports, its neighbour and its name on this computer are others."""
    there = machines.offsite()
    ours = paths.instance_id()
    monkeypatch.setenv("CABINET_STATE", there["CABINET_STATE"])
    monkeypatch.setenv("CABINET_MACHINE", there["CABINET_MACHINE"])
    other = vm.Machine()
    assert (other.name, other.state.parent, other.state != machine.state) == ("offsite", machine.state.parent, True)
    assert paths.instance_id() != ours and other.neighbour.namespace != machine.neighbour.namespace
    other.sign()
    assert other.created() and not machine.created()


def test_what_the_twin_finds_stands_where_the_originals_does(machine, monkeypatch):
    """Whichever of the two writes first."""
    there = paths.beside("2")
    there.mkdir()
    (there / "results").symlink_to(machine.state / "results")
    monkeypatch.setenv("CABINET_STATE", str(there))
    paths.results("vagrant", "claims").write_text("{}\n")
    assert (machine.state / "results/vagrant/claims.jsonl").read_text() == "{}\n"


def test_each_claim_is_one_machines(machine, monkeypatch, tmp_path, request):
    """The first to ask has it, and has it again in the next run; without --share all are everybody's."""
    monkeypatch.setattr(request.config.option, "share", str(tmp_path), raising=False)
    request.node.add_marker(pytest.mark.claim("FW-01"))
    assert conftest.ours(request.node)
    monkeypatch.setenv("CABINET_STATE", str(paths.beside("2")))
    assert not conftest.ours(request.node)
    monkeypatch.setattr(request.config.option, "share", None)
    assert conftest.ours(request.node)


def test_the_disks_are_as_large_as_asked_for(monkeypatch):
    monkeypatch.delenv("CABINET_DISK", raising=False)
    assert vm.disk_size() == "2G"
    monkeypatch.setenv("CABINET_DISK", "16G")
    assert vm.disk_size() == "16G"


@pytest.mark.parametrize("size", ["", "16", "1G", "16M", "big", "16G; reboot"])
def test_what_is_no_size_of_a_disk_is_said(monkeypatch, size):
    monkeypatch.setenv("CABINET_DISK", size)
    with pytest.raises(HostError, match="CABINET_DISK.*as 16G"):
        vm.disk_size()
