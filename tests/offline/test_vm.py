"""The VM's state directory goes by the checkout's path: what an earlier checkout left there is removed, never taken over."""

from __future__ import annotations

import pytest

from kit import paths, vm


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
