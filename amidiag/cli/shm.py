"""`amidiag shm`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from amidiag.cli.door import CommandError, Json, envelope, out, print_json, stderr
from amidiag.cli.options import Argument, Option, bad_parameter
from amidiag.cli.spans import seconds
from amidiag.model import Envelope, ExitCode, ShmData

if TYPE_CHECKING:
    from amidiag.cli.shm_look import Look
    from amidiag.model import Orphan

NAME = "shm"
EXAMPLES = """\b
Examples:
  amidiag shm 4711             its shared memory: who maps it, who holds it, who made it; orphans
  amidiag shm 4711 --tree      with its loader processes and other descendants
  amidiag shm                  orphans of this machine: segments that no process maps or holds
  amidiag shm --reap           removes those that nobody can want any more, after asking
  amidiag shm 4711 --reap      the same in the /dev/shm that process 4711 sees, in a container say
Only --reap writes: it removes nothing that a living process may use, and says what it kept and why.
What no process is seen to have is opened for some microseconds, so that the kernel can say that
nobody has it (a write lease); it is neither read nor written.
Exit codes: 0 shown or removed, 2 usage, 3 cannot observe."""


def command(
    pid: Annotated[
        int | None, Argument(min=1, metavar="[PID]", help="The process to look at; without it, the machine.")
    ] = None,
    tree: Annotated[bool, Option("--tree", help="With its descendants.")] = False,
    reap: Annotated[bool, Option("--reap", help="Remove orphans, after asking.")] = False,
    yes: Annotated[bool, Option("--yes", help="With --reap: do not ask.")] = False,
    any_name: Annotated[
        bool, Option("--any-name", help="With --reap: files too whose names no known program gives.")
    ] = False,
    older_than: Annotated[
        str, Option("--older-than", metavar="TIME", help="What is younger is no orphan yet.")
    ] = "60s",
    as_json: Json = False,
) -> int:
    """Show shared memory: segments by kind, who maps, holds and made them, and the orphans that nobody has."""
    age = seconds(older_than)
    _check(pid, tree=tree, reap=reap, yes=yes, any_name=any_name)
    from amidiag.cli.shm_look import look

    with look(pid, tree=tree, older_than=age, needed=reap) as seen:
        report = _report(seen)
        if reap:
            report = _reap(seen, report, yes=yes, any_name=any_name, as_json=as_json)
        elif not as_json:
            _print(report)
    if as_json:
        print_json(report)
    return ExitCode.CLEAN


def _check(pid: int | None, *, tree: bool, reap: bool, yes: bool, any_name: bool) -> None:
    if tree and pid is None:
        raise bad_parameter("of which process? --tree needs a PID")
    if (yes or any_name) and not reap:
        raise bad_parameter("--yes and --any-name go with --reap")
    if reap and not yes and not (sys.stdin and sys.stdin.isatty()):
        raise CommandError(
            "--reap asks before it removes, and there is no terminal: add --yes", ExitCode.USAGE
        )


def _report(seen: Look) -> Envelope:
    data = ShmData(seen.segments.segments, seen.segments.in_flight, seen.orphans.orphans)
    notes = (*seen.notes, *seen.segments.notes, *seen.orphans.notes)
    return envelope(NAME, ExitCode.CLEAN, processes=seen.processes, tree=seen.tree, data=data, notes=notes)


def _print(report: Envelope) -> None:
    from amidiag.report.shm_table import shm_report

    for part in shm_report(report):
        out().print(part, soft_wrap=True)


def _reap(seen: Look, report: Envelope, *, yes: bool, any_name: bool, as_json: bool) -> Envelope:
    """List, ask, remove; the report with what was done."""
    from amidiag.procfs.shm_reap import remove, sort_out

    assert isinstance(report.data, ShmData)
    assert seen.directory is not None
    chosen = sort_out(seen.directory, seen.orphans.found, any_name=any_name)
    orphans = [one.orphan for one in chosen.removable]
    if not as_json:
        _print(report)
        _print_plan(orphans, chosen.kept)
    kept, removed = dict(chosen.kept), []
    if orphans and (yes or _agrees(orphans)):
        for name, reason in remove(seen.directory, chosen.removable, any_name=any_name):
            if reason is None:
                removed.append(name)
            else:
                kept[name] = reason
    else:
        kept |= {orphan.name: "not confirmed" for orphan in orphans}
    data = replace(report.data, removed=tuple(removed), kept=kept)
    if not as_json:
        _print_done(data, chosen.kept)
    return replace(report, data=data)


def _print_plan(orphans: Sequence[Orphan], kept: Mapping[str, str]) -> None:
    from amidiag.report.shm_table import plan

    for line in plan(orphans, kept):
        out().print(line, soft_wrap=True)


def _print_done(data: ShmData, kept_before: Mapping[str, str]) -> None:
    from amidiag.report.shm_table import reaped

    for line in reaped(data, kept_before):
        out().print(line, soft_wrap=True)


def _agrees(orphans: Sequence[Orphan]) -> bool:
    from amidiag.report.words import count, size

    held = size(sum(orphan.allocated or 0 for orphan in orphans))
    number = f"{count(len(orphans))} orphan{'' if len(orphans) == 1 else 's'}"
    # On standard error: standard output may be a file, or is for JSON.
    stderr().write(f"Remove {number}, {held}? [y/N] ")
    # A line that ends without an answer (Ctrl-D) is a no.
    return os.read(sys.stdin.fileno(), 4096).strip().lower() in (b"y", b"yes")
