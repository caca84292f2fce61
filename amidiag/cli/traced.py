"""What `amidiag trace PID` is about: a running process, or what an ended one left; errors as one line."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from amidiag.cli.door import CommandError
from amidiag.model import ExitCode
from amidiag.procfs.errors import ProcessGone

if TYPE_CHECKING:
    from amidiag.attach.trace_reading import TraceReading

_CANNOT = ExitCode.CANNOT_OBSERVE


@dataclass(frozen=True, slots=True)
class Traced:
    """A reading, under which title it is shown, and notes besides its own."""

    title: str
    reading: TraceReading
    notes: tuple[str, ...] = ()


def read(target: str, *, tree: bool) -> Traced:
    """Read what `target` names: a PID, or the file of a table.

    Raises:
        CannotObserve: the process is not traced, or may not be read.
        CommandError: there is neither such a process nor such a file, or the table is not believed.
    """
    from amidiag.attach.trace_files import BadTableError

    try:
        if target.isdecimal():
            return _of_process(int(target), tree=tree)
        return _of_file(target, tree=tree)
    except BadTableError as e:
        raise CommandError(str(e), _CANNOT) from e


def _of_process(pid: int, *, tree: bool) -> Traced:
    from amidiag.attach.call_sites import NotTraced, read_trace
    from amidiag.procfs.identity import identify
    from amidiag.procfs.processes import read_stat

    try:
        identity, name = identify(pid), read_stat(pid).name
        return Traced(f"PID {pid}  {name}", read_trace(identity, tree=tree))
    except NotTraced as e:
        earlier, _ = _left_by(pid)
        hint = f" An earlier process {pid} left a table: amidiag trace {earlier[0]}" if earlier else ""
        raise CommandError(f"{e}{hint}", _CANNOT) from e
    except ProcessGone as e:
        dead, why = _left_by(pid)
        if not dead:
            raise CommandError(f"{e} {why}", _CANNOT) from e
    others = tuple(f"process {pid} left another table: amidiag trace {path}" for path in dead[1:])
    return _of_dead(dead[0], others, pid)


def _left_by(pid: int) -> tuple[list[str], str]:
    """The tables that an ended process left, newest first, or why there are none."""
    from amidiag.attach.trace_files import find_dead
    from amidiag.target.private_files import runtime_dir

    try:
        return find_dead(pid), f"It left no call-site table in {runtime_dir()} either."
    except PermissionError as e:
        return [], f"What it may have left is not believed: {e}."


def _of_file(path: str, *, tree: bool) -> Traced:
    """What the process has open that made this table, or what it left where it has ended."""
    from amidiag.attach.trace_files import read_table
    from amidiag.model import Identity
    from amidiag.procfs.identity import still

    try:
        found = os.lstat(path)
    except OSError as e:
        what = "is neither a PID nor the file of a call-site table"
        why = f"cannot be read: {e.strerror}" if isinstance(e, PermissionError) else what
        raise CommandError(
            f"{path!r} {why}", _CANNOT if isinstance(e, PermissionError) else ExitCode.USAGE
        ) from e
    if stat.S_ISDIR(found.st_mode):
        raise CommandError(f"{path!r} is a directory: `amidiag trace` alone lists the tables", ExitCode.USAGE)
    table = read_table(path)
    if still(Identity(table.boot_id, table.pid, table.start_ticks)):
        return _of_process(table.pid, tree=tree)
    return _of_dead(path, ())


def _of_dead(path: str, notes: tuple[str, ...], pid: int | None = None) -> Traced:
    """What an ended process left: the maker of the table, or (`pid`) a child that it has forked."""
    from amidiag.attach.call_sites import read_post_mortem
    from amidiag.attach.trace_files import read_table
    from amidiag.model import Identity
    from amidiag.procfs.identity import still
    from amidiag.report.words import duration

    table, written = read_table(path), _written(path)
    age = duration(max(0.0, time.time() - written))
    at = datetime.fromtimestamp(written, UTC).replace(microsecond=0).isoformat()
    who = f"PID {table.pid} ({table.program})"
    if pid in (None, table.pid):
        note = f"{who} has ended and left {path}, last written {age} ago ({at})"
        return Traced(f"PID {table.pid}  {table.program}", read_post_mortem(path), (note, *notes))
    alive = still(Identity(table.boot_id, table.pid, table.start_ticks))
    state = f"runs: amidiag trace {table.pid}" if alive else "has ended too"
    note = f"PID {pid} has ended: it was forked by {who}, which {state}. Its part of {path} is shown"
    return Traced(f"PID {pid}  child of {table.program}", read_post_mortem(path, pid), (note, *notes))


def _written(path: str) -> float:
    """When something was last noted in a table (Unix time): the file's own time lags behind what is mapped."""
    from amidiag.attach.trace_files import list_tables

    for file in list_tables():
        if file.path == path:
            return datetime.fromisoformat(file.written_at).timestamp()
    return Path(path).stat().st_mtime
