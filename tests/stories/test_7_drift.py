"""Altered by hand: the plan says what somebody did, the deploy keeps a copy of it and puts back what is described."""

from __future__ import annotations

import subprocess

from testinfra.host import Host

from kit import deployment, paths
from kit.plan import SET_ASIDE

CANARY = "canary-a-password-that-somebody-wrote-down"
CONFIG = "/etc/postgresql/17/main"
PRIVATE = f"{CONFIG}/conf.d/log.conf"
# One for each kind of operation that writes or removes files.
ALTERED = ["/etc/squid/squid.conf", "/etc/ssh/sshd_config", "/usr/local/lib/cabinet/practice/status.py", PRIVATE]
ADDED = ["/usr/local/lib/cabinet/practice/stranger.py", f"{CONFIG}/conf.d/stranger.conf"]
REMOVED = "/etc/profile.d/cabinet-idle.sh"
COPIES = f"cd {SET_ASIDE} 2>/dev/null && find . -type f -newer /run/drift-story | sort || true"


def test_what_somebody_altered_is_shown_kept_and_put_back(host: Host) -> None:
    """A file of each kind: altered, added, removed. Control: before, the plan is empty; and what holds a secret is not shown."""
    assert deployment.planned_changes("vagrant") == []
    host.check_output(f"touch /run/drift-story; sleep 1; rm {REMOVED}")
    for path in [*ALTERED, *ADDED]:
        host.check_output(f"echo '# {CANARY if path == PRIVATE else 'by hand'}' >> {path}")

    shown = subprocess.run(["./cabinet", "plan", "vagrant"], cwd=paths.ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 2, shown.stderr
    said = [line.strip() for line in shown.stdout.splitlines()]
    by_hand = {path: said[said.index(path) + 1] for path in [*ALTERED, REMOVED]}
    assert {path for path, words in by_hand.items() if words.startswith("ALTERED on the server")} == set(ALTERED)
    assert by_hand[REMOVED].startswith("REMOVED on the server")
    assert said.count("-# by hand") == len(ALTERED) - 1 + 1, f"not each file is shown: {shown.stdout}"
    assert CANARY not in shown.stdout + shown.stderr, "a file that not everybody may read is shown"
    assert f"{ADDED[0]}: goes" in said

    done = deployment.pyinfra("vagrant", "deploy.py", "--yes", echo=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert deployment.planned_changes("vagrant") == []
    copies = ["/" + path.split("/", 2)[2] for path in host.check_output(COPIES).splitlines()]
    assert sorted(copies) == sorted([*ALTERED, *ADDED])
    kept = host.check_output(f"cd {SET_ASIDE} && cat $({COPIES})")
    assert (kept.count("# by hand"), kept.count(CANARY)) == (len(ALTERED) + len(ADDED) - 1, 1)
    assert host.check_output(f"stat -c '%a %U' {SET_ASIDE}; findmnt -no SOURCE --target {SET_ASIDE}").split()[:3] == [
        "700", "root", "/dev/mapper/data[/var/lib/cabinet]",
    ]  # fmt: skip
