"""`./cabinet peer NAME PERSON DEVICE`: what a device needs to come in through the VPN, as a file and as a picture for its camera.

A device that stands in the clinic file has its own key, and gets the file without one. For any other a pair is made, shown once and
kept nowhere; its public half goes into the clinic file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
import segno

from kit import clinic, keys, paths
from kit.clinic import Clinic
from kit.connection import Connection
from kit.render import rendered
from kit.sections import Peer, Vpn
from kit.yamlmarks import did_you_mean, mistakes

# roles/vpn.py puts it there.
PUBLIC_KEY = "/etc/cabinet/vpn/public.key"


@click.command()
@click.argument("name")
@click.argument("person")
@click.argument("device")
@click.option("--file", type=click.Path(path_type=Path), help="write the configuration there, for the device's owner alone to read")
def peer(name: str, person: str, device: str, file: Path | None) -> None:
    """Let a DEVICE of PERSON come in through the VPN of NAME: its configuration, and the entry for the clinic file."""
    practice = clinic.load(paths.ROOT / "clinics" / f"{name}.yaml")
    if practice.vpn is None:
        raise click.ClickException(f"clinics/{name}.yaml has no vpn; clinics/example.yaml explains it")
    if file is not None and file.exists():
        raise click.ClickException(f"{file} is there already; take another name")
    known = next((known for known in practice.vpn.peers if known.name == f"{person}-{device}"), None)
    private = None
    if known is None:
        private, public = keys.vpn_pair()
        known = new_peer(practice, practice.vpn, person, device, public)
    text = configuration(practice, known, server_key(Connection(name, practice)), private)
    if private is not None:
        segno.make(text, error="l").terminal(out=sys.stdout, compact=True)
        click.echo(f"The way in for {known.name}. Photograph it with WireGuard's own app now: it is kept nowhere and not shown again.\n")
    if file is not None:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:
            written.write(text)
    else:
        click.echo(text)
    if private is not None:
        click.echo(f"Under vpn.peers in clinics/{name}.yaml, and then ./cabinet deploy {name}:")
        click.echo(f'    - {{person: {person}, device: {device}, address: {known.address}, public_key: "{known.public_key}"}}')


def new_peer(practice: Clinic, vpn: Vpn, person: str, device: str, public_key: str) -> Peer:
    """A device that is not in the clinic file yet, at the first free address. Raises ClickException when nobody could have it."""
    names = [someone.name for someone in practice.people]
    if person not in names:
        raise click.ClickException(f'"{person}" is not in people; {did_you_mean(person, names)}')
    address = next(vpn.free_addresses, None)
    if address is None:
        raise click.ClickException(f"{vpn.network} has no address left; take out a device, or take a larger range")
    entry = {"person": person, "device": device, "address": str(address), "public_key": public_key}
    if wrong := mistakes(Peer, entry):
        raise click.ClickException(wrong[0][1])
    return Peer.model_validate_json(json.dumps(entry))


def server_key(connection: Connection) -> str:
    """The public key of the server's end of the tunnel. Raises ClickException when it has none yet."""
    key = connection.file(PUBLIC_KEY)
    if key is None:
        raise click.ClickException(f"{connection.name}: the server has no VPN yet; deploy first")
    return key.decode().strip()


def configuration(practice: Clinic, peer: Peer, server_key: str, private_key: str | None = None) -> str:
    """What wg-quick and WireGuard's apps read. Without `private_key` the device puts in its own."""
    assert practice.vpn is not None
    host = f"[{practice.vpn.endpoint}]" if ":" in practice.vpn.endpoint else practice.vpn.endpoint
    return rendered(
        "vpn/peer.conf.j2",
        practice=practice.practice,
        peer=peer,
        private_key=private_key,
        server_key=server_key,
        endpoint=f"{host}:{practice.vpn.port}",
        server=practice.network.lan.address.ip,
    )
