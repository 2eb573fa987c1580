"""Deploy cut off in the middle: the connection dies at a random operation; run again, it converges, and nobody is locked out."""

from __future__ import annotations

import random
import subprocess

import pytest
from testinfra.host import Host

from kit import deployment, enrol, paths
from kit.connection import Connection
from kit.vm import Machine


def test_a_deploy_cut_off_converges_when_run_again(host: Host, vm: Machine, connection: Connection, pytestconfig: pytest.Config) -> None:
    """From a machine that has its packages and nothing else; a new log-in with both factors shows that the door still opens."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"\nrandom seed {seed}")
    chance = random.Random(seed)
    for round in range(20 if pytestconfig.getoption("--long") else 3):
        plain_again(vm, connection)
        total = deployment.operations("vagrant")
        at = chance.randint(1, total)
        ended = cut_off(connection, at)
        print(f"round {round + 1}: cut at operation {at} of {total}, pyinfra ended with {ended}")
        assert ended != 0, "control: the deploy did not even notice"
        deployment.deploy("vagrant", connection)
        connection.logout()
        connection.login()
        assert connection.logged_in_as == connection.clinic.technician
        assert deployment.planned_changes("vagrant") == []
    host.backend.reconnect()


def plain_again(vm: Machine, connection: Connection) -> None:
    """Back to the snapshot from before anything was configured; the seeds of that other server are void."""
    connection.logout()
    vm.restore("packages")
    enrol.forget_test_seeds()


def cut_off(connection: Connection, at: int) -> int:
    """Deploy, and end the one connection when operation number `at` begins; pyinfra's exit code."""
    connection.login()
    argv = [str(deployment.PYINFRA), *deployment.inventory("vagrant"), "deploy.py", "--yes"]
    begun = 0
    with subprocess.Popen(argv, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        for line in run.stdout or ():
            if "Starting operation" in line:
                begun += 1
                if begun == at:
                    connection.logout()
        return run.wait(300)
