"""Whether the process that a segment names as its creator still runs."""

from __future__ import annotations

import os
import time

from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.processes import read_file, snapshot
from amidiag.procfs.shm_users import INITIAL_PID_NAMESPACE

# Wall clock times of a start and of a file differ by clock steps and by rounding to ticks.
_SLACK = 2.0
# `torch_shm_manager`, which hands out segments of the file_system strategy; comm has 15 characters.
_MANAGER = "torch_shm_manag"


class LivingProcesses:
    """All visible processes at one instant, by every PID that they have in any namespace.

    A name holds the PID that its creator saw of itself. In which namespace that was is not known, so a
    number counts as alive where any process has it in any of its namespaces (NSpid, proc_pid_status(5)).

    Raises ReaderExhausted, NotLinux.
    """

    def __init__(self) -> None:
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = os.sysconf("SC_CLK_TCK")
        self._started: dict[int, float] = {}
        self._managers: list[tuple[int, float]] = []
        for stat in snapshot().values():
            if stat.ended or stat.kernel_thread:
                continue
            started = boot + stat.start_ticks / ticks
            if stat.name == _MANAGER:
                self._managers.append((stat.pid, started))
            for pid in _numbers(stat.pid):
                self._started[pid] = min(started, self._started.get(pid, started))
        self._complete = _shows_all()

    def is_alive(self, creator: int, made_at: float | None) -> bool | None:
        """Whether the process that had PID `creator` at `made_at` (wall clock) runs; None if it may be hidden.

        A process that started later has only inherited the number.
        """
        started = self._started.get(creator)
        if started is not None and (made_at is None or started <= made_at + _SLACK):
            return True
        return False if self._complete else None

    def manager_since(self, made_at: float | None) -> int | None:
        """PID of a `torch_shm_manager` that already ran at `made_at`; it may still hand that segment out."""
        found = (pid for pid, started in self._managers if made_at is None or started <= made_at + _SLACK)
        return next(found, None)


def _numbers(pid: int) -> list[int]:
    try:
        _, found, rest = read_file(pid, "status", "the state").partition(b"\nNSpid:")
    except ProcessGone:
        return []
    except CannotObserve:
        return [pid]
    return [int(word) for word in rest.partition(b"\n")[0].split()] if found else [pid]


def _shows_all() -> bool:
    """Whether `/proc` shows every process of the machine: not in a container, nor with hidepid."""
    # A process that hidepid hides is not there at all (proc(5)); PID 1 belongs to root.
    return os.readlink("/proc/self/ns/pid") == INITIAL_PID_NAMESPACE and os.path.exists("/proc/1/stat")
