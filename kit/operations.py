"""The few operations that pyinfra lacks: whole files, staged and checked; guarded scripts; units that run what is configured.

Each compares live state (R3), names nothing but paths on the terminal (a content may be a secret), and is cheap: one fact, one command.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from hashlib import sha256
from io import BytesIO
from typing import Any

from pyinfra import host
from pyinfra.api import FileUploadCommand, OperationError, QuoteString, StringCommand, operation
from pyinfra.api.command import PyinfraCommand

from kit import beforehand, facts, manifest
from kit.render import content_of

STAMP = "/etc/cabinet/revision"  # of the last deploy that came to its end
# For scripts of ours, which a test has parsed already: a unit that is laid down beforehand finds those that it calls.
PARSES = "sh -n {}"

Commands = Generator[PyinfraCommand | str, None, None]


def reread(*units: str) -> str:
    """A line of shell: systemd reads its unit files anew if what it knows of `units` is not what lies there. It takes seconds."""
    known = "grep -qvx -e '' -e LoadState=loaded -e NeedDaemonReload=no"
    return f"! systemctl show -p LoadState,NeedDaemonReload {' '.join(units)} | {known} || systemctl daemon-reload"


def enabling(units: str) -> str:
    """A line of shell: `units` start at each boot from now on.

    Told so over D-Bus, systemd calls all that it knows outdated until it has read every file anew; the links alone are enough for
    what is not running yet (`--root`, systemctl(1)). Of what runs it would go on saying what it read before.
    """
    return f"if systemctl --quiet is-active {units}; then how=--no-reload; else how=--root=/; fi\nsystemctl --quiet $how enable {units}"


def config_file(name: str, dest: str, check: str | None = None, mode: str = "644", **described: Any) -> None:
    """Make `dest` a whole file of ours, as `described`: by `content`, `src` (in files/), or `template` with its data; `owner`, `group`.

    It is staged beside its place, `check` (a command; {} is the staged file) must accept it, then one rename puts it there.
    What `check` refuses never reaches its place. What somebody altered is set aside. No plan shows the text of a file
    that not everybody may read.
    """
    if check in (None, PARSES) and not {"owner", "group"} & set(described) and int(mode[-1]) & 4:
        beforehand.note(dest, mode, described)
    _config_file(name=name, dest=dest, check=check, mode=mode, **described)


@operation()
def _config_file(
    dest: str,
    content: str | bytes | None = None,
    src: str | None = None,
    template: str | None = None,
    check: str | None = None,
    mode: str = "644",
    owner: str = "root",
    group: str = "root",
    **data: Any,
) -> Commands:
    wanted = content_of(content, src, template, data)
    manifest.leaves(dest, wanted)
    now = host.get_fact(facts.Path, path=dest)
    if now == facts.FileState(mode, owner, group, "regular file" if wanted else "regular empty file", sha256(wanted).hexdigest()):
        host.noop(f"{dest} is as wanted")
        return
    if now is not None and now.kind == "directory":
        raise OperationError(f"{dest} is a directory; a file belongs there. Look what is in it, then move it away.")
    lies, rights = (now.sha256, f"{now.mode} {now.owner}:{now.group}") if now else ("", "")
    manifest.tell(dest, wanted, f"{mode} {owner}:{group}", lies=lies, rights=rights, secret=None)
    directory, _, name = dest.rpartition("/")
    staged = f"{directory}/.{name}.staged"  # same directory: the rename is atomic; a leading dot: no glob includes it
    yield StringCommand("mkdir", "-p", QuoteString(directory))
    yield FileUploadCommand(BytesIO(wanted), staged)
    checked = check.replace("{}", '"$staged"') if check else "true"
    yield StringCommand(
        manifest.SET_ASIDE, "staged=", QuoteString(staged), f"; if ( {checked}\n); then chown ", f"{owner}:{group}",
        ' "$staged" && chmod ', mode, ' "$staged" && set_aside ', QuoteString(dest), ' && mv -fT "$staged" ', QuoteString(dest),
        '; else rm -f "$staged"; exit 1; fi', _separator="",
    )  # fmt: skip


@operation()
def laid_beforehand() -> Commands:
    """Where no deploy has come to its end: all that kit/beforehand.py has noted, in one go. What lies there already stays as it is."""
    if host.get_fact(facts.Path, path=STAMP) is not None:
        host.noop("it was deployed before")
        return
    tar = beforehand.ARCHIVE
    yield FileUploadCommand(BytesIO(beforehand.archive()), tar)
    yield f"umask 022 && tar -x --touch --skip-old-files --no-same-owner -C / -f {tar} && rm {tar} && systemctl daemon-reload"


@operation()
def file_list() -> Commands:
    """Write down what the operations of this run have left; as the last of them all."""
    wanted = manifest.left().encode()
    now = host.get_fact(facts.Path, path=manifest.MANIFEST)
    if now is not None and (now.mode, now.sha256) == ("600", sha256(wanted).hexdigest()):
        host.noop(f"{manifest.MANIFEST} is as wanted")
        return
    # Root's alone: a checksum of a file in which all but a password is known would let it be guessed.
    yield FileUploadCommand(BytesIO(wanted), manifest.MANIFEST)
    yield StringCommand("chmod", "600", manifest.MANIFEST)


@operation()
def tree(path: str, files: dict[str, bytes]) -> Commands:
    """Make `path` a directory of exactly `files` (relative path to content; root's, 0644): what else lies there goes.

    Only for directories that are ours alone. The new tree is unpacked beside the old one and takes its place by a rename. Python
    modules are compiled at once: not all who run them may write there, and to compile them at each call takes seconds.
    """
    wanted = {name: sha256(content).hexdigest() for name, content in files.items()}
    for name, content in files.items():
        manifest.leaves(f"{path}/{name}", content)
    now = host.get_fact(facts.Tree, path=path)
    if now == wanted:
        host.noop(f"{path} is as wanted")
        return
    for name in sorted(name for name in {*now, *wanted} if now.get(name) != wanted.get(name)):
        manifest.tell(f"{path}/{name}", files.get(name), "", lies=now.get(name, ""), rights="", secret=None)
    archive = beforehand.packed({name: (0o644, content) for name, content in files.items()})
    quoted, staged, old = QuoteString(path), QuoteString(f"{path}.staged"), QuoteString(f"{path}.old")
    yield StringCommand("rm -rf", staged, old, "&& install -d -m 755", staged)
    yield FileUploadCommand(BytesIO(archive), f"{path}.staged/.tar")
    yield StringCommand(
        manifest.SET_ASIDE, "set_aside", quoted, "&& cd", staged, "&& umask 022 && tar -xf .tar --no-same-owner && rm .tar && cd / &&",
        "{ ! test -e", quoted, "|| mv", quoted, old, "; } && mv", staged, quoted, "&& rm -rf", old,
        "&& python3 -I -m compileall -q", quoted,
    )  # fmt: skip


@operation()
def directory(path: str, mode: str = "755", owner: str = "root", group: str = "root") -> Commands:
    """Make `path` a directory with these rights; what is in it stays as it is."""
    if host.get_fact(facts.Path, path=path) == facts.FileState(mode, owner, group, "directory", ""):
        host.noop(f"{path} is as wanted")
        return
    yield StringCommand("install", "-d", "-m", mode, "-o", owner, "-g", group, QuoteString(path))


@operation()
def absent(path: str) -> Commands:
    """Make sure that no file or symbolic link lies at `path`."""
    if host.get_fact(facts.Path, path=path) is None:
        host.noop(f"{path} is absent")
        return
    yield StringCommand("rm", "-f", QuoteString(path))


@operation()
def script(unless: str, run: str) -> Commands:
    """Run the shell script `run`, unless the shell script `unless` ends with 0; both are asked on the live system.

    Before `run` removes what somebody may have put there it calls set_aside PATH….
    """
    if host.get_fact(facts.Holds, question=unless):
        host.noop("holds")
        return
    yield StringCommand(f"{manifest.SET_ASIDE}set -eu\n{run}")


@operation()
def unit(
    unit: str,
    running: bool = True,
    enabled: bool = True,
    config: list[str] | tuple[str, ...] = (),
    reload: bool = False,
) -> Commands:
    """Make `unit` run (or not), at boot too (or not), with the configuration that lies in `config` (files and directories).

    A unit older than its configuration is restarted, or reloaded where it can be; whether we just wrote the file does not matter,
    so a run that broke off between the two loses nothing.
    """
    now = host.get_fact(facts.Unit, unit=unit, config=tuple(config))
    name = QuoteString(unit)
    applied = StringCommand("mkdir", "-p", facts.APPLIED, "&& touch", QuoteString(f"{facts.APPLIED}/{unit}"))
    changed = False
    if now["outdated"] or not now["known"]:
        changed = True
        yield "systemctl daemon-reload"
    if enabled != now["enabled"]:
        changed = True
        yield enabling(unit) if enabled else StringCommand("systemctl --quiet --no-reload disable", name)
    if not running and now["active"]:
        changed = True
        yield StringCommand("systemctl stop", name)
    if running and (not now["active"] or now["stale"]):
        changed = True
        verb = "start" if not now["active"] else "reload" if reload else "restart"
        yield StringCommand(
            "systemctl", verb, name, "&&", applied, "|| { journalctl --no-pager -n 20 -u", name, ">&2; exit 1; }"
        )
    if not changed:
        host.noop(f"{unit} is as wanted")


def timers_run(name: str, timers: Iterable[str], known: Iterable[str]) -> None:
    """An operation that has `timers` run, now and at each boot, and systemd know `known` as they lie there; all in one step.

    Each look of systemd at its unit files costs seconds on a slow machine.
    """
    run, units = " ".join(timers), list(known)
    script(
        name=name,
        unless=(
            f"test -z \"$(systemctl show -p LoadState,NeedDaemonReload {' '.join(units)} "
            "| grep -vx -e '' -e LoadState=loaded -e NeedDaemonReload=no)\"\n"
            f"test \"$(systemctl show -p ActiveState,UnitFileState {run} | sort -u | xargs)\" = 'ActiveState=active UnitFileState=enabled'"
        ),
        run=f"{enabling(run)}\n{reread(*units)}\nsystemctl start {run}",
    )
