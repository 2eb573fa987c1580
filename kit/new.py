"""`./cabinet new NAME`: asks what differs between practices, and writes the answers down as a clinic file."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import click
import yaml

from kit import clinic, paths, yamlmarks
from kit.clinic import Clinic
from kit.sections import ADMINISTRATORS, PROFILES, VM
from kit.yamlmarks import Loc

Draft = dict[str, Any]
RESERVED = ("example", VM)


@click.command()
@click.argument("name")
def new(name: str) -> None:
    """Ask what differs between practices and write clinics/NAME.yaml."""
    path = paths.ROOT / "clinics" / f"{name}.yaml"
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name) or name in RESERVED:
        raise click.ClickException(f'"{name}" cannot name a clinic; take a short word in small letters, such as the town\'s')
    if path.exists():
        raise click.ClickException(f"{yamlmarks.shown(path)} is there already; edit it, or take another name")
    click.echo("Enter takes what stands in brackets. Nothing is written before the last answer.")
    text = clinic_text(interview())
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    clinic.load(path)
    click.echo(f"\n{yamlmarks.shown(path)} is written; clinics/example.yaml explains what else can stand in it.")
    click.echo(f"Next: ./cabinet plan {name}")


# ---- asking ---------------------------------------------------------------------------------------------------------


def interview() -> Draft:
    """Ask every question until the answer is one that the clinic model takes."""
    draft: Draft = {}
    _title("The practice")
    _ask(draft, ("practice",), "Name of the practice")
    _ask(draft, ("contact", "responsible"), "Who answers for the patients' data")
    _ask(draft, ("contact", "practice_phone"), "Telephone of the practice")
    _ask(draft, ("contact", "vendor"), "Who looks after the server")
    _ask(draft, ("contact", "vendor_phone"), "Their telephone")
    _ask(draft, ("timezone",), "Time zone", default=_this_timezone())
    _title("The server")
    _ask(draft, ("hostname",), "Its full name, such as practice.haddad.example")
    _ask(draft, ("connect", "host"), "Address where its SSH answers now")
    _ask(draft, ("connect", "bootstrap_user"), "Account that Debian's installer made")
    _ask(draft, ("network", "internet", "interface"), "Interface of the default route (ip route)")
    _ask(draft, ("network", "lan", "interface"), "Interface in the practice's network", default=draft["network"]["internet"]["interface"])
    _ask(draft, ("network", "lan", "address"), "Its address there, such as 192.168.10.5/24")
    lan = IPv4Interface(draft["network"]["lan"]["address"]).network
    _ask(draft, ("network", "management"), "Networks from which it is looked after", default=str(lan), many=True)
    _ask(draft, ("network", "resolvers"), "DNS servers it asks", default=str(lan[1]), many=True)
    _title("Its disks: lsblk -d -o NAME,SIZE,SERIAL")
    _ask_disk(draft, ("storage",), "data")
    if click.confirm("Is there a second disk for data, that holds the same in case one fails?", default=False):
        _ask_disk(draft, ("storage", "mirror"), "the same data")
    _ask_disk(draft, ("backup",), "backups")
    _title("The people")
    _ask_people(draft)
    _title("The application")
    draft["proxy"] = {"names": [draft["hostname"]]}
    _ask(draft, ("proxy", "upstream"), "Where it listens, such as http://127.0.0.1:8080 (empty: not installed yet)", default="")
    _title("When something is wrong")
    _ask_alarm(draft)
    return draft


def _title(text: str) -> None:
    click.secho(f"\n{text}", bold=True)


def _ask(draft: Draft, loc: Loc, question: str, default: str | None = None, many: bool = False, read: Callable[[str], str] = str) -> None:
    """Put a good answer at `loc`. An empty one, where it is allowed, leaves the key out."""
    part = draft
    for step in loc[:-1]:
        part = part[step] if isinstance(part, list) else part.setdefault(step, {})
    while True:
        answer = read(click.prompt(question, default=default, show_default=bool(default)).strip())
        part[loc[-1]] = answer.replace(",", " ").split() if many else answer
        if not answer:
            del part[loc[-1]]
            return
        wrong = _wrong(draft, loc)
        if not wrong:
            return
        click.secho(f"  {wrong[0]}", fg="red")


def _wrong(draft: Draft, loc: Loc) -> list[str]:
    """What the model says about the answer at `loc`; what has not been asked yet is not wrong."""
    said = yamlmarks.mistakes(Clinic, draft)
    return [text for at, text in said if at[: len(loc)] == loc and not text.startswith("is missing")]


def _ask_disk(draft: Draft, section: Loc, purpose: str) -> None:
    _ask(draft, (*section, "disk"), f"Serial number of the disk for {purpose}")
    serial = functools.reduce(dict.__getitem__, (*section, "disk"), draft)
    if click.confirm(f"May everything on {serial} be destroyed? (no: it is taken only when it is blank)", default=False):
        _ask(draft, (*section, "wipe"), "Type its serial number again")


def _ask_people(draft: Draft) -> None:
    people = draft["people"] = []
    more = True
    while more:
        _ask_person(draft, len(people))
        wrong = _wrong(draft, ("people",))
        if _wrong(draft, ("people", len(people) - 1)):
            people.pop()
        # Without an administrator there is another person to be asked for, whatever anybody says.
        more = bool(wrong) or click.confirm("Another person?", default=False)
        if wrong:
            click.secho(f"  {wrong[0]}", fg="red")


def _ask_person(draft: Draft, index: int) -> None:
    person: Draft = {}
    draft["people"].append(person)
    _ask(draft, ("people", index, "full_name"), "Full name")
    _ask(draft, ("people", index, "name"), "Log-in name")
    _ask(draft, ("people", index, "profile"), f"Profile ({', '.join(PROFILES)})")
    if person["profile"] not in ADMINISTRATORS and not click.confirm("Does this person log in to the server itself?", default=False):
        person["login"] = False
        return
    person["keys"] = [""]
    _ask(draft, ("people", index, "keys", 0), "Public key: the path of the .pub file, or its line", read=_key_line)


def _ask_alarm(draft: Draft) -> None:
    """Mail alone: a webhook has an address that nobody types from memory, and clinics/example.yaml shows it."""
    _ask(draft, ("alarm", "mail", "to"), "Who is told by mail: their addresses (empty: nobody yet)", default="", many=True)
    if not draft["alarm"]["mail"]:
        del draft["alarm"]
        return
    _ask(draft, ("alarm", "mail", "sender"), "Address that the mail comes from")
    _ask(draft, ("alarm", "mail", "host"), "Mail server that takes it (with STARTTLS, at port 587)")
    _ask(draft, ("alarm", "mail", "login", "user"), "The server's account there (empty: it needs none)", default="")
    if not draft["alarm"]["mail"]["login"]:
        del draft["alarm"]["mail"]["login"]
        return
    _ask(draft, ("alarm", "mail", "login", "password_file"), "File on this machine, outside of the tree, that holds its password")


def _key_line(answer: str) -> str:
    """The key itself, where the answer is the file that holds it."""
    path = Path(answer).expanduser()
    is_path = " " not in answer and len(answer) < 256 and path.is_file()
    return path.read_text(errors="replace").strip() if is_path else answer


def _this_timezone() -> str | None:
    target = Path("/etc/localtime").resolve()
    return str(target).partition("/zoneinfo/")[2] or None


# ---- writing --------------------------------------------------------------------------------------------------------


def clinic_text(draft: Draft) -> str:
    """The clinic file for a draft that the model takes."""
    contact, connect, network, lan = draft["contact"], draft["connect"], draft["network"], draft["network"]["lan"]
    lines = [
        "# Written by ./cabinet new. clinics/example.yaml explains every key, and those that are left out here.",
        "",
        f"practice: {_word(draft['practice'])}",
        "contact:",
        *(f"  {key}: {_word(contact[key])}" for key in ("responsible", "practice_phone", "vendor", "vendor_phone")),
        f"timezone: {_word(draft['timezone'])}",
        "",
        f"hostname: {_word(draft['hostname'])}",
        "connect:",
        f"  host: {_word(connect['host'])}",
        "  # For the very first log-in alone.",
        f"  bootstrap_user: {_word(connect['bootstrap_user'])}",
        "network:",
        f"  internet: {{interface: {_word(network['internet']['interface'])}}}",
        f"  lan: {{interface: {_word(lan['interface'])}, address: {_word(lan['address'])}}}",
        "  # SSH answers these networks and no others.",
        f"  management: {_list(network['management'])}",
        f"  resolvers: {_list(network['resolvers'])}",
        "",
        "storage:",
        *_disk_lines(draft["storage"]),
        "backup:",
        *_disk_lines(draft["backup"]),
        "",
        "people:",
        *(line for person in draft["people"] for line in _person_lines(person)),
        "",
        "proxy:",
        f"  names: {_list(draft['proxy']['names'])}",
        *([f"  upstream: {draft['proxy']['upstream']}"] if "upstream" in draft["proxy"] else []),
        *(_alarm_lines(draft["alarm"]["mail"]) if "alarm" in draft else []),
    ]
    return "\n".join(lines) + "\n"


def _disk_lines(disk: Draft) -> list[str]:
    lines = [f"  disk: {_word(disk['disk'])}"]
    if "wipe" in disk:
        lines += ["  # Take this line out after the first deploy.", f"  wipe: {_word(disk['wipe'])}"]
    if "mirror" in disk:
        lines += ["  mirror:", *(f"  {line}" for line in _disk_lines(disk["mirror"]))]
    return lines


def _person_lines(person: Draft) -> list[str]:
    lines = [f"  - name: {_word(person['name'])}", f"    full_name: {_word(person['full_name'])}", f"    profile: {person['profile']}"]
    if person.get("keys"):
        lines += ["    keys:", *(f"      - {_word(key)}" for key in person["keys"])]
    if person.get("login") is False:
        lines.append("    login: false")
    return lines


def _alarm_lines(mail: Draft) -> list[str]:
    lines = ["", "alarm:", "  mail:", f"    to: {_list(mail['to'])}", *(f"    {key}: {_word(mail[key])}" for key in ("sender", "host"))]
    if "login" in mail:
        lines += ["    login:", *(f"      {key}: {_word(mail['login'][key])}" for key in ("user", "password_file"))]
    return lines


def _list(words: list[str]) -> str:
    return f"[{', '.join(_word(word) for word in words)}]"


def _word(text: str) -> str:
    """`text` for YAML: plain where that means the same everywhere, else in quotes."""
    try:
        plain = yaml.safe_load(f"[{text}]") == [text] and yaml.safe_load(f"a: {text}") == {"a": text}
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
