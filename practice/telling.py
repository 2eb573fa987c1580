"""What of the alarms leaves the server, when, and in which words: words that stand here, and none that were read anywhere.

So no message can hold anything about a patient, whatever the alarm itself says: that text stays on the server.
"""

from __future__ import annotations

import re
import socket
import time
from typing import Any

from practice.server import settings

DAY = 86400
# Raised as often within a day, an alarm counts as one that comes and goes: it is over when it has been silent for that long.
OFTEN = 2

LOOK = "Log in and read: sudo practice status"
# For each kind of alarm (the key up to its first colon): what is wrong, and what to do.
SENTENCES = {
    "backup": ("There is no backup that is young enough.", "See that the backup disk is there, then: sudo practice backup"),
    "backup-pages": (
        "A backup found damaged pages in the database.",
        "Do not wait: disks fail slowly, then at once. Another disk; then back to before the damage: sudo practice restore",
    ),
    "breakglass": ("The sealed password of the console was used.", "If it was none of you, call now. If it was: sudo practice breakglass"),
    "database": (
        "The database does not answer.",
        "Why: sudo tail /var/log/postgresql/postgresql-17-main.log. Then: sudo systemctl restart postgresql@17-main",
    ),
    "disk": (
        "A disk is nearly full.",
        "Make room before the database stops, or take a larger disk. What fills it: sudo du -xhd 2 / /data /backup | sort -h",
    ),
    "drill": ("For days no backup was restored on trial.", f"Try it: sudo practice drill. {LOOK}"),
    "drill-offsite": ("The copy outside was not restored on trial, or did not restore.", f"sudo practice drill --from offsite. {LOOK}"),
    "locked": ("The data volume is closed, so the practice cannot work.", "With the recovery key: sudo practice unlock"),
    "media": ("The external medium of a working day is missing.", "Plug it in; the server writes it, and says when it can go."),
    "media-failed": (
        "An external medium could not be written.",
        "Plug it in again, or another one; where it was full, a larger one. Why: sudo practice media",
    ),
    "mirror": ("The practice's data are on one disk alone.", f"Put another disk in the failed one's place. {LOOK}"),
    "mirror-differs": ("The two disks that hold the data may differ.", f"Do not wait: disks fail slowly, then at once. {LOOK}"),
    "offsite": ("The copy outside the practice is too old.", "See that the Internet is there, then: sudo practice offsite send"),
    "offsite-foreign": (
        "Outside lies a copy that this server has not made.",
        "If it is none of yours: sudo practice recovery-kit --anew. Then, or if it is: sudo practice offsite accept",
    ),
    "offsite-lost": ("The copy outside the practice was gone.", "A new one was begun. Ask whoever keeps it what has happened."),
    "offsite-removable": ("The copy outside could be removed from the practice.", "Whoever keeps it must make it append-only."),
    "offsite-renew": ("No new repository could be begun outside the practice.", f"Ask whoever keeps it whether there is room. {LOOK}"),
    "offsite-shrunk": (
        "The copy outside suddenly holds far less than before.",
        "See what is missing: sudo practice offsite. If that is right: sudo practice offsite accept",
    ),
    "offsite-verify": ("The copy outside the practice could not be read.", f"Call whoever keeps it. {LOOK}"),
    "pages": ("The database has read damaged pages.", f"Restore before they spread into old backups. {LOOK}"),
    "recovery-kit": ("Nobody holds a recovery kit that opens everything.", "Print one, and confirm it: sudo practice recovery-kit"),
    "restore": ("A restore was interrupted.", "Go on, or take it back: sudo practice restore"),
    "timers": ("Something that should happen by itself is switched off.", "Run the deploy again: it switches all of it on."),
    "unit": ("A service has failed.", LOOK),
    "unsent": ("An alarm could not be delivered to one of those who should get it.", "Ask for the reason: sudo practice alarm test"),
    "unused": ("Somebody who may log in has not done so for a long time.", "If they have left, take them out of the clinic file."),
    "vault": ("Copies of a practice look wrong, or whoever asks for them does.", "sudo python3 /usr/local/lib/cabinet/keeper.py"),
    "volume-locked": ("The data volume is closed, so the practice cannot work.", "With the recovery key: sudo practice unlock"),
    "wal-failing": ("Changes no longer reach the backup disk.", "See that the backup disk is there and has room."),
    "wal-full": ("Changes that wait for the backup disk fill the data disk.", "See that the backup disk is there, or the database stops."),
    "wal-lost": ("Changes since the newest backup were lost on their way to the backup disk.", "Make a new one: sudo practice backup"),
    "wal-off": ("The database no longer hands its changes to the backup.", "Run the deploy again."),
}
OTHER = ("The server says that something needs a person.", LOOK)
# The units that notice when the watch, or the keeper of the host outside, is silent; they are worth words of their own.
SILENCE = {
    "unit:practice-silence.service": ("The server no longer looks at itself.", "systemctl status practice-watch.timer"),
    "unit:cabinet-silence.service": ("The host outside no longer looks at the copies.", "systemctl status cabinet-keeper.timer"),
}
# A part of the system, by a name that no person has given: without what follows an @.
DETAILS = {"unit": re.compile(r"[a-z][a-z-]*@?"), "disk": re.compile(r"/(data|backup)?\Z"), "media": re.compile(r"[a-z]{3,6}day\Z")}
ABOUT = {
    "raised": "ALARM",
    "still": "ALARM, still",
    "over": "over",
    "test": "test",
    "alive": "alive",
    "written": "done",
}

Said = tuple[str, str, float]


def due(alarms: dict[str, Any], told: dict[str, Any], now: float) -> list[Said]:
    """What must be told now, as (state, key, since): an alarm when it is raised, when it is over, and once a day in between.

    `told` remembers, for each key, when it was told as raised and whether it counts as standing.
    """
    say: list[Said] = []
    for key in sorted({*alarms, *told}):
        known = told.setdefault(key, {"open": False, "raised": [], "last": 0, "since": now})
        known["raised"] = [at for at in known["raised"] if 0 <= now - at < DAY]  # ahead of now: the clock was, and it counts as none
        if key in alarms and not known["open"]:
            known["raised"].append(now)
            known |= {"open": True, "last": now, "since": alarms[key]["since"]}
            say.append(("raised", key, known["since"]))
        elif key in alarms and not 0 <= now - known["last"] < DAY:
            known["last"] = now
            say.append(("still", key, known["since"]))
        elif key not in alarms and known["open"] and len(known["raised"]) < OFTEN:
            known["open"] = False
            say.append(("over", key, known["since"]))
        if key not in alarms and not known["open"] and not known["raised"]:
            del told[key]
    return say


def words(key: str) -> tuple[str, str]:
    """What is wrong, and what to do; of the key itself only what names a part of the system."""
    if key in SILENCE:
        return SILENCE[key]
    kind, _, detail = key.partition(":")
    what, remedy = SENTENCES.get(kind, OTHER)
    shown = DETAILS[kind].match(detail) if kind in DETAILS else None
    return (f"{what} ({shown[0]})" if shown else what), remedy


def advised(key: str, what: str) -> str:
    """A sentence that stays on the server, with what to do, in the words that leave it."""
    return f"{what} {words(key)[1]}"


def message(said: Said, standing: int = 0) -> dict[str, str]:
    """Subject and text of one message; `standing` counts the alarms, for the sign of life."""
    state, key, since = said
    server = socket.getfqdn()
    if state == "alive":
        stand = f"{standing} alarm{'s' if standing > 1 else ''}: sudo practice status" if standing else "no alarm"
        what = f"The server is alive and looks at itself: {stand}."
        remedy = "Nothing. When this message stays away, call whoever looks after the server."
    elif state == "test":
        what, remedy = "This is a test: alarms reach you.", "Nothing."
    elif state == "written":
        what, remedy = f"The medium of {key} is written and read back.", "Take it out of the practice, and lock it away."
    else:
        what, remedy = words(key)
    if state == "over":
        remedy = "Nothing: it is right again."
    text = [
        f"Practice server: {server} ({settings().get('practice', '')})",
        f"What:            {what}",
        f"Since:           {time.strftime('%Y-%m-%d %H:%M %z', time.localtime(since))}",
        f"What to do:      {remedy}",
        "",
        "Sent by the server itself. What is behind it stands there alone; no patient's data is in these messages.",
    ]
    return {"state": state, "server": server, "subject": f"[{server}] {ABOUT[state]}: {what}", "text": "\n".join(text) + "\n"}
