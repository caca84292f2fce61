"""The call-site tables in this user's runtime directory: what is there, whose it was, and away with the old."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from amidiag.attach.trace_source import BadTableError, TableFile
from amidiag.model import TraceFile
from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.identity import boot_id
from amidiag.procfs.processes import read_stat
from amidiag.procfs.ticks import NS_PER_TICK
from amidiag.target.private_files import runtime_dir
from amidiag.target.trace_layout import (
    R_CLAIMED,
    R_EMFILE_AT,
    R_OFF_AT,
    R_PID,
    R_SLOTS,
    R_STATE,
    R_SWEPT_AT,
    SLOT,
    SLOT_SIZE,
    STATE_ACTIVE,
    SUFFIX,
)

# The time alone of each slot.
_TIME_AT = struct.calcsize("@QHHiQQ")
_TIMES = struct.Struct(f"@{_TIME_AT}xQ{SLOT.size - _TIME_AT - 8}x")


@dataclass(frozen=True, slots=True)
class _Old:
    """A table by its headers. `pids`: of all its regions. `in_use`: one of their processes, or its maker, runs.

    `made`, `written`: Unix time in seconds.
    """

    path: str
    pid: int
    program: str
    alive: bool
    in_use: bool
    pids: frozenset[int]
    made: float
    written: float
    size: int


def list_tables() -> list[TraceFile]:
    """The tables of this user, those of live processes first, each sort newest first. Damaged ones are left out.

    Raises PermissionError where the directory is not this user's alone.
    """
    found = sorted(_tables(), key=lambda old: (not old.alive, -old.written))
    return [
        TraceFile(old.path, old.pid, old.program, old.alive, iso(old.made), iso(old.written), old.size)
        for old in found
    ]


def find_dead(pid: int) -> list[str]:
    """Paths of the tables that the ended process `pid` has made or had a region in, newest first, its own before.

    Raises PermissionError where the directory is not this user's alone.
    """
    dead = [old for old in _tables() if (old.pid == pid and not old.alive) or pid in old.pids]
    return [old.path for old in sorted(dead, key=lambda old: (old.pid != pid, -old.written))]


def clean(older_than_s: float) -> list[str]:
    """Remove what no live process uses any more and was not written to for so many seconds; what was removed.

    Damaged tables too, by the age of the file. Raises PermissionError as above, OSError.
    """
    limit = time.time() - older_than_s
    removed = []
    for path in _paths():
        try:
            old = _look(path)
            if old.in_use or old.written > limit:
                continue
        except BadTableError:
            if os.lstat(path).st_uid != os.geteuid() or os.lstat(path).st_mtime > limit:
                continue
        except FileNotFoundError:
            continue  # Its process has removed it.
        # Its process may have ended in order, or another of us may clean.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            removed.append(path)
    return removed


def iso(seconds: float) -> str:
    """ISO 8601 in UTC, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(seconds))


def _paths() -> list[str]:
    directory = runtime_dir()
    try:
        info = os.lstat(directory)
    except FileNotFoundError:
        return []
    if info.st_mode & 0o170077 != 0o040000 or info.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{directory} is not a directory that belongs to this user alone (mode 0700)")
    return [os.path.join(directory, name) for name in sorted(os.listdir(directory)) if name.endswith(SUFFIX)]


def _tables() -> Iterator[_Old]:
    for path in _paths():
        with contextlib.suppress(BadTableError, FileNotFoundError, PermissionError):
            yield _look(path)


def _look(path: str) -> _Old:
    with TableFile(path, {os.geteuid(), 0}) as file:
        header, info = file.header, file.stat()
        this_boot = header.boot_id == boot_id()
        alive = this_boot and _runs(header.pid, header.start_ticks)
        made, written, pids, in_use = info.st_mtime, info.st_mtime, set(), alive
        for number in range(header.regions):
            words = file.region_words(number)
            if words[R_STATE] != STATE_ACTIVE:
                continue
            claimed = (words[R_CLAIMED] + header.realtime) / 1e9
            made = min(made, claimed)
            # Memory that is written shows in the time of a file late or, on tmpfs, never.
            written = max(written, min(time.time(), (_last(file, number, words) + header.realtime) / 1e9))
            if this_boot and _runs(words[R_PID], claimed_ns=words[R_CLAIMED]):
                in_use = True
            else:
                pids.add(words[R_PID])
    return _Old(path, header.pid, header.program, alive, in_use, frozenset(pids), made, written, info.st_size)


def _last(file: TableFile, number: int, words: tuple[int, ...]) -> int:
    at, geometry = file.header.place(number)
    used = min(words[R_SLOTS], geometry.slots)
    times = _TIMES.iter_unpack(file.read(at + geometry.slots_at, used * SLOT_SIZE))
    marks = [words[R_CLAIMED], words[R_SWEPT_AT], words[R_EMFILE_AT], words[R_OFF_AT]]
    marks += [moment for (moment,) in times]
    return max(marks)


def _runs(pid: int, start_ticks: int | None = None, claimed_ns: int = 0) -> bool:
    """Whether this process lives: the one of that start, or one that was started before it claimed a region."""
    if not 0 < pid < 1 << 31:
        return False
    try:
        found = read_stat(pid)
    except ProcessGone:
        return False
    except CannotObserve:
        return True  # It is there, and hidden from us.
    if found.ended:
        return False
    if start_ticks is not None:
        return found.start_ticks == start_ticks
    return found.start_ticks * NS_PER_TICK <= claimed_ns
