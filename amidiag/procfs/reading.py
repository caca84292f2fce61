"""One process of a tree, read as far as this user may."""

from __future__ import annotations

from collections.abc import Callable

from amidiag.procfs.errors import NoPermission
from amidiag.procfs.fds import FdScan, count
from amidiag.procfs.limits import NofileLimit, nofile_limit
from amidiag.procfs.memory import StatusFields, read_status
from amidiag.procfs.processes import ProcStat
from amidiag.procfs.shm import Holding, read_holding

Scanner = Callable[[int, str | None], FdScan]
"""What reads the FDs of a process, given its PID and name: `fds.scan`, or one that keeps more of them."""


class Reading:
    """What was read of one process.

    `scan` and `holding` are None where they were not asked for or not allowed; `refused` names the
    parts that this user may not read.
    """

    __slots__ = ("holding", "limit", "open", "refused", "scan", "stat", "status")

    def __init__(self, stat: ProcStat, status: StatusFields, limit: NofileLimit) -> None:
        self.stat = stat
        self.status = status
        self.limit = limit
        self.open: int | None = None
        self.scan: FdScan | None = None
        self.holding: Holding | None = None
        self.refused: list[str] = []

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.stat.pid


def read_process(stat: ProcStat, *, scanner: Scanner, with_shm: bool) -> Reading:
    """Read one process. Raises ProcessGone, ReaderExhausted; a refusal is noted in the reading."""
    reading = Reading(stat, read_status(stat.pid, stat.name), nofile_limit(stat.pid, stat.name))
    _read_fds(reading, scanner)
    if with_shm:
        _read_shm(reading)
    return reading


def _read_fds(reading: Reading, scanner: Scanner) -> None:
    pid, name = reading.stat.pid, reading.stat.name
    try:
        reading.scan = scanner(pid, name)
        reading.open = reading.scan.open
    except NoPermission:
        reading.refused.append("types and peers of the FDs")
        try:
            reading.open = count(pid)
        except NoPermission:  # A kernel before 6.2, where to count is to list.
            reading.refused.append("number of FDs")


def _read_shm(reading: Reading) -> None:
    try:
        if reading.scan is not None:
            reading.holding = read_holding(reading.scan, reading.stat.name)
    except NoPermission:
        reading.holding = None
    if reading.holding is None:
        reading.refused.append("shared memory")
