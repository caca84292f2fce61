"""Whether the process that a segment names as its creator still runs."""

from __future__ import annotations

import os
import time

from amidiag.model import Identity
from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.identity import identity_of
from amidiag.procfs.processes import read_file, snapshot
from amidiag.procfs.shm_directory import open_shm
from amidiag.procfs.shm_users import INITIAL_PID_NAMESPACE

# Wall clock times of a start and of a file differ by clock steps and by rounding to ticks.
_SLACK = 2.0
# `torch_shm_manager`, which hands out segments of the file_system strategy; comm has 15 characters.
_MANAGER = "torch_shm_manag"


class LivingProcesses:
    """All visible processes at one instant, by every PID that they have in any namespace.

    A name holds the PID that its creator saw of itself. In which namespace that was is not known, so any
    process counts that has the number in one of its namespaces (NSpid, proc_pid_status(5)) and sees the
    same `/dev/shm`: in every container somebody is PID 1.

    Raises ReaderExhausted, NotLinux.
    """

    def __init__(self) -> None:
        boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        ticks = os.sysconf("SC_CLK_TCK")
        self._by_number: dict[int, list[tuple[Identity, float]]] = {}
        self._managers: list[tuple[Identity, float]] = []
        for stat in snapshot().values():
            if stat.ended or stat.kernel_thread:
                continue
            process = identity_of(stat), boot + stat.start_ticks / ticks
            if stat.name == _MANAGER:
                self._managers.append(process)
            for number in numbers_of(stat.pid):
                self._by_number.setdefault(number, []).append(process)
        # A process that hidepid hides is not there at all (proc(5)); PID 1 belongs to root.
        self._shows_root = os.path.exists("/proc/1/stat")
        # In a container, those outside are not shown either.
        in_container = os.readlink("/proc/self/ns/pid") != INITIAL_PID_NAMESPACE
        self._complete = self._shows_root and not in_container

    def is_alive(
        self, creator: int, made_at: float | None, *, device: int | None = None, in_view: bool = False
    ) -> bool | None:
        """Whether the process that had PID `creator` at `made_at` (wall clock) runs; None if it may be hidden.

        A process that started later has only inherited the number. `device`: that of the `/dev/shm` in
        question, None where there is none. `in_view`: the PID is known to be one of the reader's own
        namespace, so that a container around it hides nothing.
        """
        for process, started in self._by_number.get(creator, ()):
            old_enough = made_at is None or started <= made_at + _SLACK
            if old_enough and (device is None or _may_see(process, device)):
                return True
        return False if self._complete or (in_view and self._shows_root) else None

    def manager_of(self, device: int, made_at: float) -> int | None:
        """PID of a `torch_shm_manager` that may still hand out a segment on that `/dev/shm`; None if none can.

        It keeps names only, so that no mapping and no FD tells. One that started later cannot know it.
        """
        for identity, started in self._managers:
            if started <= made_at + _SLACK and _may_see(identity, device):
                return identity.pid
        return None


def _may_see(process: Identity, device: int) -> bool:
    try:
        with open_shm(process) as directory:
            return os.fstat(directory).st_dev == device
    except ProcessGone:
        return False
    except CannotObserve:
        return True  # It cannot be asked: then it may.


def numbers_of(pid: int) -> list[int]:
    """The PIDs of a process in its PID namespaces, from the reader's to its own; none where it has ended."""
    try:
        _, found, rest = read_file(pid, "status", "the state").partition(b"\nNSpid:")
    except ProcessGone:
        return []
    except CannotObserve:
        return [pid]
    return [int(word) for word in rest.partition(b"\n")[0].split()] if found else [pid]
