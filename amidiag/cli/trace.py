"""`amidiag trace`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import click

from amidiag.cli.door import CommandError, Json, envelope, err, out, print_json, stdout, write_file
from amidiag.cli.options import Argument, Option
from amidiag.cli.spans import seconds
from amidiag.model import ExitCode, TraceData, TraceFiles

if TYPE_CHECKING:
    from amidiag.attach.saved_trace import Saved
    from amidiag.attach.trace_reading import Opened, TraceReading

NAME = "trace"
EXAMPLES = """\b
Examples:
  amidiag trace 4711                        what is open, by the line that made it
  amidiag trace 4711 --type pipe --full     pipes only, with whole stacks
  amidiag trace 4711 --save before          and later: --since before, for what came after
  amidiag trace 4711 --collapsed - | flamegraph.pl > open.svg
  amidiag trace 4711 --speedscope open.json
  amidiag trace                             the tables of running and of ended processes
  amidiag trace --clean --older-than 2d     removes those of ended ones
The program was started with tracing: `amidiag run COMMAND`, or AMI_DIAG_TRACE=1 for the worker.
It may be hung, stopped, at EMFILE: it is not asked. What a dead one left is an upper bound: what
it made and is not known to have closed.
Exit codes: 0 shown, 2 usage, 3 no such process, or it is not traced."""

_STDOUT = Path("-")


def command(
    target: Annotated[str | None, Argument(metavar="[PID]")] = None,
    tree: Annotated[bool, Option("--tree", help="With its descendants.")] = False,
    by: Annotated[
        Literal["site", "type", "thread", "process"], Option(help="What a row stands for.")
    ] = "site",
    types: Annotated[
        list[str] | None, Option("--type", help="Only this type, as `fds` names it; may be repeated.")
    ] = None,
    full: Annotated[bool, Option("--full", help="All rows, and whole stacks.")] = False,
    save: Annotated[Path | None, Option(help="Write a mark for --since to this file.")] = None,
    since: Annotated[Path | None, Option(help="Only what was made since that mark.")] = None,
    collapsed: Annotated[
        Path | None, Option(help="Write collapsed stacks for flamegraph tools; - is standard output.")
    ] = None,
    speedscope: Annotated[
        Path | None, Option(help="Write a file for speedscope; - is standard output.")
    ] = None,
    clean: Annotated[bool, Option("--clean", help="Remove the tables of ended processes.")] = False,
    older_than: Annotated[
        str, Option("--older-than", help="With --clean: only what was last written so long ago.")
    ] = "0s",
    as_json: Json = False,
) -> int:
    """Show which lines of code made what a traced process has open: FDs, shared memory, threads, children.

    PID may be the file of a call-site table too. Without it, the tables of this user are listed.
    """
    age = seconds(older_than)
    if target is None:
        if tree or types or full or save or since or collapsed or speedscope:
            raise click.BadParameter("of which process? Only --clean and --json go without a PID")
        return _list(age if clean else None, as_json=as_json)
    if clean:
        raise click.BadParameter("--clean removes what ended processes left, and takes no PID")
    graphs = (collapsed, speedscope)
    if as_json + graphs.count(_STDOUT) > 1:
        raise click.BadParameter("--json, --collapsed - and --speedscope - cannot share standard output")
    from amidiag.cli.traced import read

    traced = read(target, tree=tree)
    mark = None if since is None else _mark(since, traced.reading)
    kinds = tuple(types or ())
    data = _data(traced.reading, by, kinds, mark)
    notes = (*traced.notes, *traced.reading.notes, *_absent(traced.reading, kinds))
    _write_mark(save, traced.reading)
    if any(graphs):
        _write_graphs(*graphs, _chosen(traced.reading, kinds, mark), traced.title)
    if as_json:
        print_json(envelope(NAME, ExitCode.CLEAN, data=data, notes=notes))
        return ExitCode.CLEAN
    from amidiag.report.trace_table import remarks, trace_report

    if _STDOUT in graphs:
        for part in remarks(data, notes):
            err().print(part, soft_wrap=True)
    else:
        for part in trace_report(data, traced.title, notes, full=full):
            out().print(part, soft_wrap=True)
    return ExitCode.CLEAN


def _data(
    reading: TraceReading,
    by: Literal["site", "type", "thread", "process"],
    kinds: tuple[str, ...],
    mark: Saved | None,
) -> TraceData:
    from amidiag.attach.grouping import group
    from amidiag.attach.old_tables import iso

    rows, not_seen = group(reading, by=by, types=kinds, since=mark)
    # The mark is in the time of the tables, CLOCK_BOOTTIME.
    shift = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    since = None if mark is None else iso(mark.taken_at / 1e9 + shift)
    return TraceData(by, reading.alive, reading.file, since, rows, not_seen, reading.processes)


def _chosen(reading: TraceReading, kinds: tuple[str, ...], mark: Saved | None) -> list[Opened]:
    """What `group` has in its rows, one by one."""
    from amidiag.attach.saved_trace import opened_since

    opened = reading.opened if mark is None else opened_since(reading, mark)
    return [one for one in opened if not kinds or one.type in kinds]


def _absent(reading: TraceReading, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """An answer to a type that nothing has: it may be misspelt."""
    there = sorted({one.type for one in reading.opened})
    has = f"there is {', '.join(there)}" if there else "there is nothing at all"
    return tuple(f"nothing is of type {kind}: {has}" for kind in kinds if kind not in there)


def _mark(path: Path, reading: TraceReading) -> Saved:
    """The mark of an earlier `--save`. Raises CommandError where it is none, or does not fit the reading."""
    from amidiag.attach.saved_trace import SavedTraceError, from_json, opened_since

    try:
        mark = from_json(path.read_text(encoding="utf-8"))
        opened_since(reading, mark)
    except OSError as e:
        raise CommandError(f"--since {path} cannot be read: {e.strerror}", ExitCode.USAGE) from e
    except (SavedTraceError, UnicodeDecodeError) as e:
        raise CommandError(f"--since {path} cannot be used: {e}", ExitCode.USAGE) from e
    return mark


def _write_mark(path: Path | None, reading: TraceReading) -> None:
    from amidiag.attach.saved_trace import save, to_json

    if path is not None:
        _write(path, to_json(save(reading)) + "\n")


def _write_graphs(collapsed: Path | None, speedscope: Path | None, opened: list[Opened], title: str) -> None:
    from importlib.metadata import version

    from amidiag.report import flame

    sites = flame.stacks(opened)
    if collapsed is not None:
        _write(collapsed, flame.collapsed(sites))
    if speedscope is not None:
        _write(speedscope, flame.speedscope(sites, title, f"amidiag {version('amidiag')}"))


def _write(path: Path, text: str) -> None:
    if path == _STDOUT:
        stdout().write(text)
        return
    write_file(path, text)
    err().print(f"wrote {path}")


def _list(older_than: float | None, *, as_json: bool) -> int:
    """The tables of this user, after those have been removed that are so old, unless it is None."""
    from amidiag.attach.trace_files import clean, list_tables

    removed = () if older_than is None else tuple(clean(older_than))
    data = TraceFiles(tuple(list_tables()), removed)
    if as_json:
        print_json(envelope("trace list", ExitCode.CLEAN, data=data))
        return ExitCode.CLEAN
    from amidiag.report.trace_table import trace_list

    kept = sum(not file.alive for file in data.files)
    if older_than is not None and kept:
        err().print(f"kept of ended processes: {kept}, not that old, or a child that it forked still runs")
    elif older_than is not None and not removed:
        err().print("nothing to remove")
    for part in trace_list(data):
        out().print(part, soft_wrap=True)
    return ExitCode.CLEAN
