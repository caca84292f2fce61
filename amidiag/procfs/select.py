"""Which processes are meant where no PID was given: by name, or every AMI worker on this host.

A process that `/proc` hides from this user (hidepid, proc(5)) is not found, nor is one outside of this
PID namespace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from amidiag.model import Identity
from amidiag.procfs.ami_command import is_ami_worker
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identity_of
from amidiag.procfs.processes import ProcStat, read_cmdline, snapshot
from amidiag.procfs.roles import LOADER_NAME

Speaks = Callable[[Identity], object]
"""What tells whether a process has a status page: `attach.status.StatusReader()`, by a result that is not None."""


def by_name(pattern: str) -> list[Identity]:
    """The running processes with a name or command line in which the regular expression is found, by PID.

    As `pgrep -f`: neither amidiag itself, nor the shells and the like that it was called by and that have
    the pattern in their own command line because of that. Kernel threads are left out: they hold nothing.
    Raises re.error, ReaderExhausted, NotLinux.
    """
    expression = re.compile(pattern)
    stats = snapshot()
    callers = set(_line_up(os.getpid(), stats))
    found = []
    for stat in _running(stats.values()):
        if stat.pid == os.getpid():
            continue
        by_command = stat.pid not in callers and expression.search(" ".join(_words(stat)))
        if by_command or expression.search(stat.name):
            found.append(identity_of(stat))
    return found


def ami_workers(speaks: Speaks | None = None) -> list[Identity]:
    """Every AMI worker on this host, by PID: the roots of their trees, not the processes they started.

    Known by their command line; with `speaks` also by their status page, which costs one read of the
    memory map of each other process. Raises ReaderExhausted, NotLinux, and what `speaks` raises.
    """
    stats = snapshot()
    words = {stat.pid: _words(stat) for stat in _running(stats.values())}
    workers = {pid for pid in words if is_ami_worker(words[pid]) and stats[pid].name != LOADER_NAME}
    workers -= _wrappers(workers, words, stats)
    if speaks is not None:
        workers |= {
            pid for pid in words if pid not in workers and speaks(identity_of(stats[pid])) is not None
        }
    return [identity_of(stats[pid]) for pid in sorted(workers) if not _has_above(pid, workers, stats)]


def outermost(processes: Iterable[Identity]) -> list[Identity]:
    """Those that are no descendants of others among them: so that no tree is shown twice. Raises ReaderExhausted."""
    chosen = list(processes)
    pids = {process.pid for process in chosen}
    stats = snapshot()
    return [process for process in chosen if not _has_above(process.pid, pids, stats)]


def _running(stats: Iterable[ProcStat]) -> list[ProcStat]:
    live = [stat for stat in stats if not (stat.ended or stat.kernel_thread)]
    return sorted(live, key=lambda stat: stat.pid)


def _words(stat: ProcStat) -> tuple[str, ...]:
    try:
        return read_cmdline(stat.pid)
    except ProcessGone:
        return ()


def _wrappers(
    workers: Collection[int], words: Mapping[int, Sequence[str]], stats: Mapping[int, ProcStat]
) -> set[int]:
    """Those that only wait for a worker, as `conda run`: a program below has other words, a forked copy the same."""
    above = ((pid, parent) for pid in workers for parent in _line_up(pid, stats))
    return {parent for pid, parent in above if parent in workers and words[parent] != words[pid]}


def _has_above(pid: int, among: Collection[int], stats: Mapping[int, ProcStat]) -> bool:
    return any(ancestor in among for ancestor in _line_up(pid, stats))


def _line_up(pid: int, stats: Mapping[int, ProcStat]) -> list[int]:
    """The ancestors of a process, its parent first."""
    line: list[int] = []
    child = stats.get(pid)
    while child is not None and (parent := stats.get(child.parent_pid)) is not None:
        if parent.start_ticks > child.start_ticks or parent.pid in line:
            break  # The PID of a parent that ended during the listing is another's now.
        line.append(parent.pid)
        child = parent
    return line
