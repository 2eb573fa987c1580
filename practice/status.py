"""How this server is, on one screen. Exit code 0: all is well; 1: an alarm stands."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from practice import alarm, counting, drilled, media, mirror, offsite, recovery_kit
from practice.health import age, clock
from practice.server import is_root

OFFSITE = ("unit:practice-offsite",)
OUTSIDE = (
    "offsite", "offsite-verify", "offsite-renew", "offsite-lost", "offsite-removable", "offsite-foreign", "offsite-shrunk",
    "drill-offsite",
)  # fmt: skip
DRILL = ("unit:practice-drill",)
MEDIA = ("unit:practice-media",)
MIRROR = ("unit:practice-mirror",)
BACKUPS = ("unit:practice-backup", "unit:practice-verify")
NOBODY = "reach NOBODY outside this server: the clinic file has no section alarm"
UNSEALED = "no password is sealed for the day when no network helps: sudo practice breakglass"


def register(commands: Any) -> argparse.ArgumentParser:
    """`practice status [--json]`."""
    parser = commands.add_parser("status", help="how this server is, on one screen", description=__doc__)
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def main(arguments: argparse.Namespace) -> int:
    """Root looks now; everybody else reads what the last look saw."""
    seen = alarm.check() if is_root() else last_look()
    alarms = alarm.standing()
    if arguments.json:
        print(json.dumps(seen | {"alarms": alarms}, indent=2, sort_keys=True))
    else:
        print("\n".join(screen(seen, alarms, time.time(), colour=sys.stdout.isatty(), utf8=(sys.stdout.encoding or "").lower() == "utf-8")))
    return 1 if alarms or not seen else 0


def last_look() -> dict[str, Any]:
    """What the watch saw; empty when it has not looked since the server was switched on, or since it looks at more than then."""
    try:
        seen = json.loads(alarm.SEEN.read_text())
    except FileNotFoundError:
        return {}
    return seen if "counts" in seen else {}


def screen(seen: dict[str, Any], alarms: alarm.Alarms, now: float, colour: bool = False, utf8: bool = True) -> list[str]:
    """The lines of the screen. Good and bad differ by word and symbol; colour only helps."""
    if not seen:
        return ["The server has not looked at itself since it was switched on. In a few minutes it will have; or: sudo practice status"]
    good, bad = ("✔", "✘") if utf8 else ("+", "!")
    wrong = set(alarms) | set(seen["troubles"])
    uncounted = {kind: counting.note(kind, seen) for kind in seen["counts"]}

    def line(what: str, says: str, *keys: str, kind: str = "") -> str:
        fine = not any(key == mine or key.startswith(f"{mine}:") for key in wrong for mine in keys)
        if why := uncounted.get(kind):
            says = f"{why}; {says}"
            if fine:
                return f"  {bad} note   {what:<10} {says}"
        word = f"{good} fine " if fine else f"{bad} WRONG"
        if colour:
            word = f"\033[{32 if fine else '1;31'}m{word}\033[0m"
        return f"  {word}  {what:<10} {says}"

    database, backup, out = seen["database"], seen["backup"], seen["alarms"]
    outside, outer, kit, twin = (seen.get(name, {}) for name in ("offsite", "media", "recovery", "mirror"))
    owners = {"backup": BACKUPS, "drill": DRILL, "offsite": OFFSITE, "media": MEDIA, "mirror": MIRROR}
    units: dict[str, list[str]] = {name: [] for name in (*owners, "other")}
    for key in sorted(wrong):
        if key.startswith("unit:"):
            units[next((row for row, names in owners.items() if key.startswith(names)), "other")].append(key)
    stale = f" ({age(now - seen['at'])} ago)" if now - seen["at"] > 60 else ""
    lines = [
        f"{seen['practice']}  {seen['server']}  seen {clock(seen['at'])}{stale}",
        "",
        line("volume", f"the encrypted data volume is {seen['volume']}", "locked"),
        *([line("mirror", mirror.describe(twin), "mirror", "mirror-differs", *units["mirror"])] if twin else []),
        line("database", describe_database(database), "database", "pages", "wal-full", "restore"),
        line("backup", describe_backup(backup, now), "backup", "backup-pages", "timers", *units["backup"], kind="backup"),
        line("drill", drilled.newest(seen.get("drills", [])), "drill", *units["drill"]),
        line("off-site", describe_outside(outside, seen.get("drills", [])), *OUTSIDE, *units["offsite"], kind="offsite")
        if outside or seen["volume"] != "open"
        else f"  {bad} note   off-site   {offsite.NONE}",
        line("media", media.describe(outer), "media", "media-failed", *units["media"], kind="media")
        if outer or seen["volume"] != "open"
        else f"  {bad} note   media      {media.NONE}",
        line("recovery", recovery_kit.describe(kit), "recovery-kit")
        if "recovery-kit" in wrong or not kit or recovery_kit.is_held(kit)
        else f"  {bad} note   recovery   {recovery_kit.describe(kit)}",
        line("changes", describe_changes(database, now), "wal-off", "wal-failing", "wal-lost"),
        line("disks", ", ".join(f"{path} {used} % used" for path, used in seen["disks"].items()), "disk"),
        line("people", f"{len(seen['people'])} may log in", "unused"),
        line("services", f"{len(units['other'])} failed" if units["other"] else "none failed", *units["other"]),
        line("alarms", describe_alarms(out), "unsent") if out["receivers"] else f"  {bad} note   alarms     {NOBODY}",
        line("console", "one password is sealed for it", "breakglass") if seen["console"] else f"  {bad} note   console    {UNSEALED}",
        f"           revision   {seen['revision']}",
        "",
    ]
    if not alarms:
        last = f"{bad} No alarm, but not all that is kept counts yet." if any(uncounted.values()) else f"{good} All is well."
        return [*lines, f"  {last}"]
    word = f"{bad} {len(alarms)} ALARM{'S' if len(alarms) > 1 else ''}: please call whoever looks after this server."
    lines.append(f"  \033[1;31m{word}\033[0m" if colour else f"  {word}")
    return lines + [f"    since {clock(alarms[key]['since'])}  {alarms[key]['text']}" for key in sorted(alarms)]


def describe_database(database: dict[str, Any]) -> str:
    """One line about the cluster."""
    return f"PostgreSQL {database['version'].split()[0]} answers; {database['bytes'] >> 20} MiB" if database["up"] else "does not answer"


def describe_outside(outside: dict[str, Any], drills: list[drilled.Drill]) -> str:
    """One line about the copy outside."""
    return f"{offsite.describe(outside)}; {drilled.outside(drills)}" if outside else offsite.describe(outside)


def describe_alarms(alarms: dict[str, Any]) -> str:
    """One line about who is told."""
    told = f"reach {alarms['receivers']} outside this server"
    if not alarms["waiting"]:
        return told
    return f"{told}; {alarms['waiting']} wait to be delivered" + "".join(f" ({reason})" for reason in alarms["reasons"])


def describe_backup(backup: dict[str, Any], now: float) -> str:
    """One line about how far back one can go."""
    if not backup:
        return "nothing to show"
    many = f"{backup['count']} backup{'s' if backup['count'] > 1 else ''}"
    return (
        f"{many}, newest {clock(backup['newest'])} ({age(now - backup['newest'])} ago, {backup['newest_type']}); "
        f"any moment since {clock(backup['oldest'])} can be gone back to"
    )


def describe_changes(database: dict[str, Any], now: float) -> str:
    """One line about what a lost data disk would lose."""
    if not database["up"] or not database["archived_at"]:
        return "nothing to show"
    return f"last handed to the backup disk {clock(database['archived_at'])} ({age(now - database['archived_at'])} ago)"
