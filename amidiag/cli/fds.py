"""`amidiag fds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from amidiag.cli.door import CommandError, Json, envelope, print_json
from amidiag.cli.options import Argument, Option, bad_parameter
from amidiag.model import ExitCode, FdsData

if TYPE_CHECKING:
    from amidiag.model import Envelope, Identity
    from amidiag.procfs.fd_look import FdLook
    from amidiag.procfs.fd_mark import FdMark
    from amidiag.procfs.select import Speaks

NAME = "fds"
EXAMPLES = """\b
Examples:
  amidiag fds 4711             what is open, in groups, and who holds the other ends
  amidiag fds 4711 --tree      with its loader processes and other descendants
  amidiag fds                  every AMI worker on this host
  amidiag fds --name 'train'   all processes with this in their name or command line
  amidiag fds 4711 --save before   and later: --since before, for what is new
  amidiag fds 4711 --json --no-peers | jq '.processes[0].fds.by_type'
Reads /proc only; the process is not stopped and nothing is written into it."""


def command(
    pids: Annotated[
        list[int] | None,
        Argument(metavar="[PID]...", min=1, help="The processes to look at; without one, every AMI worker."),
    ] = None,
    name: Annotated[
        str | None, Option(help="Processes with this regular expression in their name or command line.")
    ] = None,
    tree: Annotated[bool, Option("--tree", help="Show descendants too.")] = False,
    no_peers: Annotated[
        bool, Option("--no-peers", help="Only count FDs by type: the least work for this machine.")
    ] = False,
    save: Annotated[str | None, Option(metavar="PATH", help="Write a mark for --since to this file.")] = None,
    since: Annotated[str | None, Option(metavar="PATH", help="Only what was opened since that mark.")] = None,
    as_json: Json = False,
) -> int:
    """Show the open FDs of processes by what they lead to, against the limit, and who holds the other ends."""
    if no_peers and (save or since):
        raise bad_parameter("--no-peers only counts: it has nothing for --save and --since")
    from amidiag.attach.status import StatusReader
    from amidiag.diagnosis import limits
    from amidiag.procfs.fd_look import look

    reader = StatusReader()
    targets = _targets(pids or [], name, reader)
    mark = None if since is None else _read_mark(since, targets)
    seen = look(
        targets,
        tree=tree,
        peers=not no_peers,
        status_reader=reader,
        before=None if mark is None else mark.fds,
    )
    findings = tuple(f for f in (limits.find(process) for process in seen.processes) if f is not None)
    code = ExitCode.FINDING if findings else ExitCode.CLEAN
    report = envelope(
        NAME,
        code,
        processes=seen.processes,
        tree=seen.tree,
        findings=findings,
        data=FdsData(seen.details, None if mark is None else mark.taken_at),
        notes=seen.notes,
    )
    if save is not None:
        _write_mark(save, seen, report)
    if as_json:
        print_json(report)
        return code
    from amidiag.cli.door import out
    from amidiag.report.fd_table import fd_report

    for part in fd_report(report, seen.names()):
        out().print(part, soft_wrap=True)
    return code


def _targets(pids: list[int], name: str | None, speaks: Speaks) -> list[Identity]:
    """The processes that are meant. Raises CommandError where there is none."""
    from amidiag.procfs.identity import identify

    targets = [identify(pid) for pid in pids]
    if targets and name is None:
        return targets
    import re

    from amidiag.procfs.select import ami_workers, by_name

    if name is None:
        found, missing = ami_workers(speaks), "no AMI worker runs on this host: give a PID, or --name PATTERN"
    else:
        try:
            found = by_name(name)
        except re.error as e:
            raise bad_parameter(f"--name {name!r} is no regular expression: {e}") from e
        missing = f"no process has {name!r} in its name or command line"
    if not (targets or found):
        raise CommandError(missing, ExitCode.CANNOT_OBSERVE)
    return list(dict.fromkeys([*targets, *found]))


def _read_mark(path: str, targets: list[Identity]) -> FdMark:
    # Here, with the paths as text until now: pathlib takes 3 ms to import, and few calls have a mark.
    from pathlib import Path

    from amidiag.procfs.fd_mark import FdMarkError, from_json

    try:
        return from_json(Path(path).read_text(encoding="utf-8"), targets)
    except OSError as e:
        raise CommandError(f"--since {path} cannot be read: {e.strerror}", ExitCode.USAGE) from e
    except (FdMarkError, UnicodeDecodeError) as e:
        raise CommandError(f"--since {path} cannot be used: {e}", ExitCode.USAGE) from e


def _write_mark(path: str, seen: FdLook, report: Envelope) -> None:
    from pathlib import Path

    from amidiag.cli.door import stderr, write_file
    from amidiag.procfs.fd_mark import to_json

    write_file(Path(path), to_json(seen.listings, report.generated_at))
    stderr().write(f"wrote {path}\n")
