"""What a reading of call sites is: plain data, without a judgement and not yet grouped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amidiag.attach.trace_region import Made
from amidiag.model import TracedProcess
from amidiag.procfs.errors import CannotObserve


class NotTraced(CannotObserve):
    """The process runs without the tracer, or its table cannot be believed."""


@dataclass(frozen=True, slots=True)
class Opened:
    """One thing that a process has open or running.

    Attributes:
        pid: who holds it.
        type: as `procfs.open_files` names it; `thread` and `process` (a child) too.
        key: what makes it one and the same wherever it is seen: (device, inode), or the number of a thread
            or process; of semaphores with the address, as each mapping is one.
        bytes: allocated memory of a segment.
        made: None where it was not seen being made.
    """

    pid: int
    type: str
    fd: int | None
    key: tuple[int | None, ...]
    bytes: int | None
    made: Made | None


@dataclass(frozen=True, slots=True)
class TraceReading:
    """What was open at one moment, and where it was made.

    Attributes:
        alive: False for a post-mortem: there `opened` is what was made and not known to be closed.
        file: the table of the process that was asked for.
        opened: of each process one after the other: FDs, mapped segments, threads, children.
        processes: the tracer's own books.
        boot_id, at: when the reading began, on CLOCK_BOOTTIME, in nanoseconds.
        started: start ticks of each process that was read, by PID.
    """

    alive: bool
    file: str | None
    opened: tuple[Opened, ...]
    processes: tuple[TracedProcess, ...]
    notes: tuple[str, ...]
    boot_id: str = ""
    at: int = 0
    started: Mapping[int, int] = field(default_factory=dict)
