"""What a practice's server and an off-site host have in common: people with two factors, and a network in which little may pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from kit import keys
from kit.sections import ADMINISTRATORS, Connect, Egress, Person
from kit.yamlmarks import Loc, Mistakes, Strict

if TYPE_CHECKING:
    from kit.alarms import Alarm
    from kit.offsite import Offsite
    from kit.sections import Net, Storage, Vpn
    from kit.vault import VaultNet

Network = IPv4Network | IPv6Network

ONE_PERSON = '[{name: karim, full_name: Karim Meziane, profile: technician, keys: ["ssh-ed25519 …"]}]'


def _different(people: tuple[Person, ...]) -> tuple[Person, ...]:
    """One account per person and one person per key; and somebody must be able to administer."""
    found: list[tuple[Loc, str]] = []
    names: dict[str, int] = {}
    owners: dict[str, str] = {}
    for index, person in enumerate(people):
        if names.setdefault(person.name, index) != index:
            found.append(((index, "name"), f"two people are called {person.name}; each needs a name of their own"))
        for at, key in enumerate(person.keys):
            owner = owners.setdefault(keys.material(key), person.name)
            if owner != person.name or key in person.keys[:at]:
                found.append(((index, "keys", at), f"this key is {owner}'s already; each key is listed once, for one person"))
    if not any(person.administers for person in people):
        found.append(((), f"nobody may administer the server; somebody needs a key and the profile {' or '.join(ADMINISTRATORS)}"))
    if found:
        raise Mistakes(found)
    return people


People = Annotated[tuple[Person, ...], Field(min_length=1, examples=[ONE_PERSON]), AfterValidator(_different)]


@dataclass(frozen=True)
class Reach:
    """What may be reached from where. `zone` is a word for `networks`; `interface` None: by whatever card."""

    service: str
    zone: str
    port: int
    interface: str | None
    networks: Sequence[Network]


class Site(Strict):
    """A machine with a door of its own: what roles/ssh.py and roles/firewall.py ask, whichever of the two it is.

    The fields are each one's own, for their order is that of its file; what an off-site host cannot have is None there.
    """

    if TYPE_CHECKING:
        people: tuple[Person, ...]
        network: Net | VaultNet
        egress: Egress
        connect: Connect | None
        alarm: Alarm | None
        vpn: Vpn | None
        offsite: Offsite | None
        storage: Storage | None

        @property
        def hostname(self) -> str:
            """Its full name."""

        @property
        def practice(self) -> str:
            """Whose it is, for whoever stands before the door."""

        @property
        def interfaces(self) -> tuple[str, ...]:
            """The network cards that it uses."""

        @property
        def neighbours(self) -> tuple[Network, ...]:
            """The networks that may ping it."""

        @property
        def reaches(self) -> tuple[Reach, ...]:
            """All that may be reached on it, but for the VPN itself."""

    @property
    def administrators(self) -> tuple[Person, ...]:
        """The people who may become root."""
        return tuple(person for person in self.people if person.administers)

    @property
    def technician(self) -> str:
        """The account by which deploys come in: the first technician's, else the first administrator's."""
        return sorted(self.administrators, key=lambda person: person.profile != "technician")[0].name
