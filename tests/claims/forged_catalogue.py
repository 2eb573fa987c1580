"""Runs on the server: which backups of a forged history would pgBackRest drop, with the live configuration? Prints them as JSON.

The catalogue of the live repository is copied into a scratch one, unencrypted, with one full backup per DAYS; `expire` then runs dry on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

Sections = dict[str, dict[str, str]]
SCRATCH = Path("/var/tmp/forged-catalogue")
PGBACKREST = ["runuser", "-u", "postgres", "--", "pgbackrest", "--stanza=main"]


def read(text: str) -> Sections:
    """pgBackRest's ini format, its sections merged."""
    sections: Sections = {}
    for line in text.splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif "=" in line:
            key, _, value = line.partition("=")
            section[key] = value
    return sections


def written(sections: Sections) -> str:
    """The file for `sections`, with the checksum that pgBackRest expects."""
    sections["backrest"].pop("backrest-checksum", None)
    pairs = {name: ",".join(f'"{key}":{value}' for key, value in sorted(keys.items())) for name, keys in sections.items()}
    body = "{" + ",".join(f'"{name}":{{{pairs[name]}}}' for name in sorted(pairs)) + "}"
    sections["backrest"]["backrest-checksum"] = json.dumps(hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest())
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in sorted(keys.items())) for name, keys in sorted(sections.items())
    )


def forge(days: list[int]) -> dict[str, int]:
    """Lay the scratch repository; its labels, and how many days old each is."""
    live = {name: subprocess.run([*PGBACKREST, "repo-get", name], capture_output=True, text=True, check=True).stdout for name in
            ("backup/main/backup.info", "archive/main/archive.info")}  # fmt: skip
    catalogue = read(live["backup/main/backup.info"])
    sample = next(json.loads(value) for label, value in catalogue["backup:current"].items() if label.endswith("F"))
    ages: dict[str, int] = {}
    catalogue["backup:current"] = {}
    segments = SCRATCH / "archive/main/17-1/0000000100000000"
    segments.mkdir(parents=True)
    for number, day in enumerate(sorted(days, reverse=True), start=1):
        stop = int(time.time()) - day * 86400 - 60
        label = time.strftime("%Y%m%d-%H%M%SF", time.gmtime(stop))
        segment = f"00000001{number:016X}"
        (segments / f"{segment}-{'0' * 40}.zst").touch()
        times = {"backup-timestamp-start": stop - 5, "backup-timestamp-stop": stop}
        place = {"backup-archive-start": segment, "backup-archive-stop": segment}
        catalogue["backup:current"][label] = json.dumps(sample | times | place, separators=(",", ":"), sort_keys=True)
        ages[label] = day
        (SCRATCH / "backup/main" / label).mkdir(parents=True)
        for manifest in ("backup.manifest", "backup.manifest.copy"):
            (SCRATCH / "backup/main" / label / manifest).touch()
    for name, sections in (("backup/main/backup.info", catalogue), ("archive/main/archive.info", read(live["archive/main/archive.info"]))):
        sections.pop("cipher", None)
        for suffix in ("", ".copy"):
            (SCRATCH / f"{name}{suffix}").write_text(written(sections))
    subprocess.run(["chown", "-R", "postgres", str(SCRATCH)], check=True)
    return ages


def main() -> None:
    """Print how old the backups are that would be dropped, and what is said of the WAL."""
    shutil.rmtree(SCRATCH, ignore_errors=True)
    try:
        ages = forge([int(day) for day in sys.argv[1:]])
        dry = [f"--repo1-path={SCRATCH}", "--repo1-cipher-type=none", "--dry-run", "--log-level-console=info"]
        said = subprocess.run([*PGBACKREST, *dry, "expire"], capture_output=True, text=True, check=True).stdout
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    dropped = [ages[label] for label in ages if f"remove expired backup {label}" in said]
    print(
        json.dumps(
            {"dropped": sorted(dropped), "wal": [line.split("repo1: ")[1] for line in said.splitlines() if "remove archive" in line]}
        )
    )


main()
