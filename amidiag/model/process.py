"""One process and one tree at one instant, as the kernel and the worker itself tell it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amidiag.model.words import Role


@dataclass(frozen=True, slots=True)
class Identity:
    """A process, never a bare PID: PIDs are reused, start ticks within one boot are not.

    `start_ticks` is field 22 of `/proc/PID/stat` (proc_pid_stat(5)), in clock ticks since boot.
    """

    boot_id: str
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class PeerCounts:
    """Who holds the opposite end of this process's pipe (or socket) descriptors, counted by descriptor.

    `nobody` is claimed only where every process of the machine could be read, or the kernel itself
    says that no far end exists (procfs/probe.py); otherwise an unmatched end counts as `unknown`.
    `self` means that no other process holds the opposite end.
    """

    self: int = 0
    tree: int = 0
    other: int = 0
    nobody: int = 0
    unknown: int = 0


@dataclass(frozen=True, slots=True)
class FdTable:
    """The open FDs of one process. `by_type` and `peers` are None where they were not read."""

    open: int | None
    soft_limit: int | None
    hard_limit: int | None
    by_type: Mapping[str, int] | None
    peers: Mapping[str, PeerCounts] | None


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Resident memory of one process, in bytes (`/proc/PID/status`: VmRSS, RssAnon, RssFile, RssShmem)."""

    rss: int | None
    anonymous: int | None
    file: int | None
    shmem: int | None


@dataclass(frozen=True, slots=True)
class ShmUse:
    """Shared memory of one process, in bytes.

    `rss` is what the kernel calls RssShmem; `held` counts every segment that is mapped or held
    open by an FD, once each, by allocated blocks. `by_kind` splits `held`.
    """

    rss: int | None
    held: int | None
    by_kind: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class Counters:
    """How often the worker has done what, since it started.

    A job counts once its first task has been taken; a poll is one `GET /jobs`.
    """

    polls: int = 0
    jobs: int = 0
    loaders: int = 0
    batches: int = 0
    images: int = 0
    posts: int = 0


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the worker can do its work, else why not. `since` is a time, ISO 8601."""

    ok: bool
    why: str | None
    since: str


@dataclass(frozen=True, slots=True)
class StatusView:
    """What the worker says of itself on its status page. `progress_age` is in seconds.

    `health` is None where the page says nothing of it, as those of older workers.
    """

    state: str
    progress_age: float | None
    counters: Counters
    settings: Mapping[str, Any] = field(default_factory=dict)
    health: Health | None = None


@dataclass(frozen=True, slots=True)
class ProcessObservation:
    """One process at one instant."""

    pid: int
    start_ticks: int
    started_at: str
    name: str
    role: Role
    parent_pid: int | None
    threads: int | None
    fds: FdTable
    memory: MemoryUse
    shm: ShmUse
    status: StatusView | None


@dataclass(frozen=True, slots=True)
class DevShm:
    """`/dev/shm` as the target sees it, in bytes. `orphans` is None where they were not looked for."""

    size: int | None
    used: int | None
    orphans: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class TreeUse:
    """What belongs to the whole tree, shared memory counted once by (device, inode)."""

    shm_unique: int | None
    shm_unique_is_lower_bound: bool | None
    dev_shm: DevShm | None


@dataclass(frozen=True, slots=True)
class Observation:
    """One tree at one instant: pure data, no judgement.

    `at` is CLOCK_MONOTONIC, in seconds. `processes[0]` is the root of the tree.
    """

    host: str
    boot_id: str
    at: float
    processes: tuple[ProcessObservation, ...]
    tree: TreeUse
    notes: tuple[str, ...] = ()
