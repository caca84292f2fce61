"""What only `trace` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TraceRow:
    """What is open now and was made at one place (or is of one type, thread or process: `TraceData.by`).

    Attributes:
        group: what the row stands for: `file:line function` of the program's own frame, or a type, a
            thread or a process.
        count: how many are open: FDs, segments that are only mapped, threads, child processes.
        bytes: allocated bytes of the shared memory among them, each segment once; None where not known.
        by_type: the count by type, as `fds` names them, plus `thread`, `process` and `semaphore`.
        by_process: the count by the PID that holds them.
        first_at, last_at: when the first and the last of them were made.
        stack: `file:line function`, innermost last, as far as it was kept (16 frames); that of the most
            where the row has several.
    """

    group: str
    count: int
    bytes: int | None
    by_type: Mapping[str, int]
    by_process: Mapping[str, int]
    first_at: str
    last_at: str
    stack: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NotSeen:
    """What is open and was not seen being made: by C code, before tracing began, or dropped. Never guessed."""

    count: int
    bytes: int | None
    by_type: Mapping[str, int]
    by_process: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TracedProcess:
    """The tracer's own books on one process, so that nothing is left out in silence.

    Attributes:
        since: when tracing began there. `off_since`: when it was switched off, None while it is on.
        no_slot, no_site: resources not recorded, or without their call site, because the table was full.
        torn: slots that were being written at every reading.
        errors: errors swallowed in hooks.
        emfile: creations that failed for want of FDs; `emfile_at`: the last of them.
        untraced_forks: forked children for which no region was left.
    """

    pid: int
    since: str
    off_since: str | None
    no_slot: int
    no_site: int
    torn: int
    errors: int
    emfile: int
    emfile_at: str | None
    untraced_forks: int


@dataclass(frozen=True, slots=True)
class TraceData:
    """What only `trace` has. `alive` is False for a post-mortem: there `rows` are what was made and not
    known to be closed, an upper bound, and `not_seen` is None."""

    by: Literal["site", "type", "thread", "process"]
    alive: bool
    file: str | None
    since: str | None
    rows: tuple[TraceRow, ...]
    not_seen: NotSeen | None
    processes: tuple[TracedProcess, ...]


@dataclass(frozen=True, slots=True)
class TraceFile:
    """A call-site table on disk, in bytes and ISO times. `alive`: its process still runs."""

    path: str
    pid: int
    program: str
    alive: bool
    made_at: str
    written_at: str
    size: int


@dataclass(frozen=True, slots=True)
class TraceFiles:
    """What `trace` without a PID has: the tables of this user. `removed`: those that `--clean` took away."""

    files: tuple[TraceFile, ...]
    removed: tuple[str, ...] = ()
