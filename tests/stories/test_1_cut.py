"""Deploy cut off in the middle: the connection dies at a random operation; run again, it converges, and nobody is locked out."""

from __future__ import annotations

import random
import subprocess

import pytest
from testinfra.host import Host

from kit import deployment, paths
from kit.connection import Connection

CUTS = 3


@pytest.mark.usefixtures("vm")
def test_a_deploy_cut_off_converges_when_run_again(host: Host, connection: Connection, pytestconfig: pytest.Config) -> None:
    """From a machine that has its packages and nothing else, cut three times on its way, each time later; a log-in gets in every time."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"\nrandom seed {seed}")
    chance = random.Random(seed)
    for _ in range(7 if pytestconfig.getoption("--long") else 1):
        deployment.back_to("packages", connection)
        total = deployment.operations("vagrant")
        for at in sorted(chance.sample(range(1, total + 1), CUTS)):
            ended, during = cut_off(connection, at)
            print(f"cut at operation {at} of {total}, pyinfra ended with {ended}: {during}")
            assert ended != 0, "control: the deploy did not even notice"
        deployment.deploy("vagrant", connection)
        connection.logout()
        connection.login()
        assert connection.logged_in_as == connection.site.technician
        assert deployment.planned_changes("vagrant") == []
    host.backend.reconnect()


def cut_off(connection: Connection, at: int) -> tuple[int, str]:
    """Deploy, and end the one connection when operation number `at` begins; pyinfra's exit code, and which operation that was."""
    connection.login()
    argv = [str(deployment.PYINFRA), *deployment.inventory("vagrant"), "deploy.py", "--yes"]
    begun, during = 0, "none"
    with subprocess.Popen(argv, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout or ():
            if "Starting operation" in line:
                begun += 1
                if begun == at:
                    during = line.partition(": ")[2].strip()
                    connection.logout()
        return run.wait(300), during
