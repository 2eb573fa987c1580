"""What every test stands on: the server, the two places to look at it from, and the hook that runs a claim twice."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

from kit import deployment, paths, register
from kit.clinic import Clinic, load
from kit.connection import Connection
from kit.neighbour import Neighbour, Outside
from kit.revision import revision
from kit.target import target
from kit.vm import Machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--clinic NAME` says which server; `--sabotage` breaks each claim first; `--long` repeats the stories many times."""
    parser.addoption("--clinic", default="vagrant", help="name of a file in clinics/; vagrant is the VM")
    parser.addoption("--sabotage", action="store_true", help="break each claim, see its test notice, let its role heal it")
    parser.addoption("--long", action="store_true", help="repeat the stories many times")


def pytest_report_header(config: pytest.Config) -> str:
    """Which server and which revision this run is about."""
    return f"clinic {config.getoption('--clinic')}, revision {revision()}{', with sabotage' if config.getoption('--sabotage') else ''}"


@pytest.fixture(scope="session")
def clinic(pytestconfig: pytest.Config) -> Clinic:
    """The clinic file under test."""
    return load(paths.ROOT / "clinics" / f"{pytestconfig.getoption('--clinic')}.yaml")


@pytest.fixture(scope="session")
def connection(pytestconfig: pytest.Config, clinic: Clinic) -> Connection:
    """The one way in."""
    return Connection(pytestconfig.getoption("--clinic"), clinic)


@pytest.fixture(scope="session")
def host(connection: Connection) -> Iterator[Host]:
    """The server, as root; never the machine the tests run on."""
    server = target(connection)
    yield server
    if server.backend.shell is not None:
        server.backend.shell.close()


@pytest.fixture(scope="session")
def vm(pytestconfig: pytest.Config) -> Machine:
    """The virtual machine itself: power, disks, TPM, snapshots."""
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test pulls plugs: it runs on the VM alone", pytrace=False)
    return Machine()


@pytest.fixture(scope="session")
def inside() -> Neighbour:
    """A neighbour in the practice's LAN."""
    return Neighbour()


@pytest.fixture(scope="session")
def outside() -> Outside:
    """The Internet side."""
    return Outside()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """A claim: run its test. Under --sabotage: break it, see the test notice, let its role heal it, see it hold again."""
    mark = pyfuncitem.get_closest_marker("claim")
    if mark is None:
        return (yield)
    began = time.monotonic()
    sabotage = pyfuncitem.config.getoption("--sabotage")
    outcome, message = "error", ""
    try:
        if sabotage:
            verdict = yield from broken_then_healed(pyfuncitem, mark)
        else:
            verdict = yield
        outcome = "passed"
        return verdict
    except (AssertionError, pytest.fail.Exception) as refuted:
        outcome, message = "failed", str(refuted)
        raise
    except BaseException as trouble:
        message = f"{type(trouble).__name__}: {trouble}"
        raise
    finally:
        record("sabotage" if sabotage else "claims", mark.args[0], outcome, message, time.monotonic() - began)


def broken_then_healed(item: pytest.Function, mark: pytest.Mark) -> Generator[None, Any, Any]:
    """One claim under sabotage. Only an AssertionError with the symptom counts as noticing; only the claim's own role heals."""
    claim_id, broken_by, symptom = mark.args[0], mark.kwargs["broken_by"], mark.kwargs["symptom"]
    arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
    server = item._request.getfixturevalue("host")
    broken_by(server)
    try:
        yield
    except AssertionError as noticed:
        if symptom not in str(noticed):
            raise AssertionError(f"{claim_id}: noticed, but for another reason than {symptom!r}: {noticed}") from noticed
    else:
        pytest.fail(f"{claim_id}: {broken_by.__name__} went unnoticed", pytrace=False)
    finally:
        if mark.kwargs["undo"] is not None:
            mark.kwargs["undo"](server)
        deployment.run_role(item.config.getoption("--clinic"), register.claim(claim_id).role)
    item.obj(**arguments)
    return True


def record(kind: str, claim_id: str, outcome: str, message: str, seconds: float) -> None:
    """Add a line to what the acceptance report is made of."""
    results: Path = paths.state_dir() / "results"
    results.mkdir(exist_ok=True)
    line = {
        "claim": claim_id,
        "outcome": outcome,
        "message": message[:2000],
        "seconds": round(seconds, 2),
        "revision": revision(),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with (results / f"{kind}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
