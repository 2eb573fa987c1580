"""Sixty operations of the kinds that deploys are made of; playbook.yml is the same for Ansible, and finds nothing to change after this."""

from pyinfra import host
from pyinfra.operations import apt, files, server, systemd

ROOT = "/srv/sixty"
MINE = {"user": "root", "group": "root"}
NO_SHELL = {"shell": "/usr/sbin/nologin"}
PACKAGES = ("openssh-server", "passwd", "sudo")
UNITS = ("ssh.service", "systemd-networkd.service")


def some(most: int) -> range:
    """All of a kind, or the first ones: bench/fleet wants few."""
    return range(min(most, host.data.get("of_each", most)))


for n in some(8):
    files.directory(name=f"directory {n}", path=f"{ROOT}/d{n}", mode="750", **MINE)
for n in some(10):
    files.put(name=f"file {n}", src="source", dest=f"{ROOT}/d{n % 8}/it's file {n}", mode="640", **MINE)
for n in some(10):
    files.template(name=f"template {n}", src="template.j2", dest=f"{ROOT}/d{n % 8}/template{n}", mode="600", **MINE, number=n)
for n in some(8):
    files.line(name=f"line {n}", path=f"{ROOT}/lines", line=f"key{n} = 'ä b'", ensure_newline=True)
for n in some(4):
    files.link(name=f"link {n}", path=f"{ROOT}/link{n}", target=f"{ROOT}/d{n}", **MINE)
for n in some(4):
    files.file(name=f"absent {n}", path=f"{ROOT}/absent{n}", present=False)
for n in some(4):
    files.file(name=f"rights {n}", path=f"{ROOT}/mark{n}", mode="400", **MINE)
for n in some(3):
    server.group(name=f"group {n}", group=f"sixty{n}", system=True)
for n in some(3):
    server.user(name=f"user {n}", user=f"sixty{n}", group=f"sixty{n}", system=True, home="/nonexistent", ensure_home=False, **NO_SHELL)
for n in some(3):
    apt.packages(name=f"package {PACKAGES[n]}", packages=[PACKAGES[n]])
apt.packages(name="no package nano", packages=["nano"], present=False)
for n in some(2):
    systemd.service(name=f"unit {UNITS[n]}", service=UNITS[n], running=True, enabled=True)
