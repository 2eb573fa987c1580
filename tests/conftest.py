"""What every test stands on: the server, the two places to look at it from, and the hook that breaks a claim before its test."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
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
from tests.helpers import one_processor


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--clinic NAME` says which server; `--sabotage` breaks each claim first; `--share` see `ours`; `--long` repeats the stories."""
    parser.addoption("--clinic", default="vagrant", help="name of a file in clinics/; vagrant is the VM")
    parser.addoption("--sabotage", action="store_true", help="break each claim, see its test notice, let its role heal it")
    parser.addoption("--long", action="store_true", help="repeat the stories many times")
    parser.addoption("--share", metavar="DIRECTORY", help="two machines share the claims: who begins one first notes it there")


def pytest_report_header(config: pytest.Config) -> str:
    """Which server and which revision this run is about."""
    return f"clinic {config.getoption('--clinic')}, revision {revision()}{', with sabotage' if config.getoption('--sabotage') else ''}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.longer(name, values, more)`: a test for each of `values`; with --long for each of `more` as well."""
    for mark in metafunc.definition.iter_markers("longer"):
        name, values, more = mark.args
        metafunc.parametrize(name, [*values, *(more if metafunc.config.getoption("--long") else ())])


@pytest.fixture(scope="session")
def clinic(pytestconfig: pytest.Config) -> Clinic:
    """The clinic file under test."""
    return load(paths.ROOT / "clinics" / f"{pytestconfig.getoption('--clinic')}.yaml")


@pytest.fixture(scope="session")
def connection(pytestconfig: pytest.Config, clinic: Clinic) -> Connection:
    """The one way in."""
    return Connection(pytestconfig.getoption("--clinic"), clinic)


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config, connection: Connection) -> Iterator[Host]:
    """The server, as root; never the machine the tests run on."""
    server = target(connection)
    if pytestconfig.getoption("--share"):
        one_processor(server)
    yield server
    if server.backend.shell is not None:
        server.backend.shell.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every claim is about a revision of a server."""
    for item in items:
        if item.get_closest_marker("claim"):
            item.fixturenames.append("revision_deployed")


@pytest.fixture(scope="session")
def vm(pytestconfig: pytest.Config) -> Machine:
    """The virtual machine itself: power, disks, TPM, snapshots."""
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test pulls plugs: it runs on the VM alone", pytrace=False)
    return Machine()


@pytest.fixture(scope="session")
def vm_people(pytestconfig: pytest.Config) -> None:
    """The private keys of the people: only those of the VM's are ours, so elsewhere a test that comes in as somebody says nothing."""
    if pytestconfig.getoption("--clinic") != "vagrant":
        pytest.fail("this test comes in as people whose keys only the VM's tests hold: on this server nobody knows", pytrace=False)


@pytest.fixture
def nobody_looks(host: Host) -> Iterator[None]:
    """The watch's quarter of an hour does not strike: an alarm comes from who noticed it, and where that is broken from nobody."""
    host.check_output("systemctl stop practice-watch.timer")
    yield
    host.check_output("systemctl start practice-watch.timer")


@pytest.fixture(scope="session")
def inside() -> Neighbour:
    """A neighbour in the practice's LAN."""
    return Neighbour()


@pytest.fixture(scope="session")
def outside() -> Outside:
    """The Internet side."""
    return Outside()


@pytest.fixture(scope="session")
def revision_deployed(host: Host) -> str:
    """What the server carries as the session begins: the results are about that, whatever is checked out."""
    return host.run("cat /etc/cabinet/revision").stdout.strip() or "none"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A claim that the other machine has begun is not this one's."""
    if ours(item):
        return None
    item.session._setupstate.teardown_exact(nextitem)  # what only the last test of ours has needed
    return True


def ours(item: pytest.Item) -> bool:
    """Whether this test is to be tried on this machine: under --share, the first to ask keeps the claim, in every run that shares there.

    So each claim is proved on the machine on which it was broken and healed.
    """
    shared, mark = item.config.getoption("--share"), item.get_closest_marker("claim")
    if shared is None or mark is None:
        return True
    note, machine = Path(shared) / mark.args[0], paths.state_dir()
    with suppress(FileExistsError):
        note.symlink_to(machine)
    return note.readlink() == machine


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """A claim: run its test. Under --sabotage: break it, see the test notice, let its role heal it; a later run shows that it holds."""
    mark = pyfuncitem.get_closest_marker("claim")
    if mark is None:
        return (yield)
    if not pyfuncitem.config.getoption("--sabotage"):
        with recorded(pyfuncitem, "claims"):
            return (yield)
    # What the role does not heal holds no more, whatever was found before.
    record(pyfuncitem, "claims", "error", "broken on purpose, and not tested since", 0)
    with recorded(pyfuncitem, "sabotage"):
        yield from noticed(pyfuncitem, mark)
    return True


def noticed(item: pytest.Function, mark: pytest.Mark) -> Generator[None, Any, None]:
    """Break the claim and run its test, then heal. Only an AssertionError with the symptom counts; only the claim's own role heals."""
    claim_id, broken_by, symptom = mark.args[0], mark.kwargs["broken_by"], mark.kwargs["symptom"]
    server = item._request.getfixturevalue("host")
    with deployment.role_at_hand(item.config.getoption("--clinic"), register.claim(claim_id).role) as heal:
        broken_by(server)
        try:
            yield
        except AssertionError as failure:
            if symptom not in str(failure):
                raise AssertionError(f"{claim_id}: noticed, but for another reason than {symptom!r}: {failure}") from failure
        else:
            pytest.fail(f"{claim_id}: {broken_by.__name__} went unnoticed", pytrace=False)
        finally:
            if mark.kwargs["undo"] is not None:
                mark.kwargs["undo"](server)
            heal()


@contextmanager
def recorded(item: pytest.Function, kind: str) -> Iterator[None]:
    """Whatever comes of the block is a line of results: passed, failed (the claim is refuted), or error (nobody knows)."""
    began = time.monotonic()
    outcome, message = "error", ""
    try:
        yield
        outcome = "passed"
    except (AssertionError, pytest.fail.Exception) as refuted:
        outcome, message = "failed", str(refuted)
        raise
    except BaseException as trouble:
        message = f"{type(trouble).__name__}: {trouble}"
        raise
    finally:
        record(item, kind, outcome, message, time.monotonic() - began)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """A claim whose fixtures fail was not looked at: an older `passed` must not stand."""
    report = yield
    if call.when == "setup" and report.failed and item.get_closest_marker("claim"):
        record(item, "sabotage" if item.config.getoption("--sabotage") else "claims", "error", str(call.excinfo), call.duration)
    return report


def record(item: pytest.Item, kind: str, outcome: str, message: str, seconds: float) -> None:
    """Add a line to what the acceptance report is made of."""
    line = {
        "claim": item.get_closest_marker("claim").args[0],
        "outcome": outcome,
        "message": message[:2000],
        "seconds": round(seconds, 2),
        "revision": item.funcargs.get("revision_deployed", "none"),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    with paths.results(item.config.getoption("--clinic"), kind).open("a") as file:
        file.write(json.dumps(line) + "\n")
