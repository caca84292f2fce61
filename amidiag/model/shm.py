"""What only `shm` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """One piece of shared memory, in bytes.

    Attributes:
        name: as the kernel has it, without ` (deleted)`. `deleted`: it has no name any more.
        size: as it was given; `allocated`: in memory or swap.
        mapped_by, held_by: PIDs of those that map it, or hold it open by an FD.
        in_flight: held by FDs and mapped by nobody: a queued batch, say.
        creator: PID in its name, or the SysV creator; `creator_alive` None where there is none.
        age: seconds since it was made.
    """

    name: str
    kind: str
    deleted: bool
    size: int | None
    allocated: int | None
    mapped_by: tuple[int, ...]
    held_by: tuple[int, ...]
    in_flight: bool
    creator: int | None
    creator_alive: bool | None
    age: float | None


@dataclass(frozen=True, slots=True)
class Orphan:
    """A named segment that no live process maps or holds.

    `unfinished`: of full size with nothing allocated, left between its creation and its first use.
    `certain` is False where some process could not be seen: such a segment is never removed.
    """

    name: str
    kind: str
    size: int | None
    allocated: int | None
    age: float | None
    owner: int | None
    creator: int | None
    creator_alive: bool | None
    unfinished: bool
    certain: bool


@dataclass(frozen=True, slots=True)
class ShmData:
    """What only `shm` has. `in_flight`: bytes that only FDs hold. `removed`: by `--reap`, `kept`: name → why."""

    segments: tuple[SegmentUse, ...]
    in_flight: int | None
    orphans: tuple[Orphan, ...]
    removed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
