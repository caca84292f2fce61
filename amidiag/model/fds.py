"""What only `fds` has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from amidiag.model.process import DevShm


@dataclass(frozen=True, slots=True)
class FdGroup:
    """FDs of one process that a person would call by one name; 65,501 orphaned pipe ends are one group.

    Attributes:
        type: as in `FdTable.by_type`.
        what: what they lead to: `pipe`, `tcp 10.0.0.7:51234 → 10.0.0.5:443 CLOSE_WAIT`, `/dev/nvidia*`,
            `memfd:arena`, `/dev/shm/torch_*`, a path.
        mode: `r`, `w`, `rw` or `path` (O_PATH) as they were opened, several as `r,w`; None where not read.
        peer: who holds the opposite end (`PeerCounts`); None for what has no other end.
        peer_processes: where `peer` is `tree` or `other`: how many of the group by the PID of a holder.
        inherited: how many are copies of an end that another process of the tree holds as well.
        bytes: allocated bytes of the shared memory among them, each segment once; else None.
        fds: the first FDs of the group.
    """

    type: str
    what: str
    mode: str | None
    count: int
    peer: str | None
    peer_processes: Mapping[str, int]
    inherited: int
    bytes: int | None
    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CgroupMemory:
    """The memory cgroup that binds a process, in bytes: the tightest limit on its path upwards.

    `pressure` is the share of time, in the last 10 seconds, in which some task waited for memory (PSI).
    None where the kernel does not say, or there is no limit.
    """

    path: str
    version: Literal[1, 2]
    limit: int | None
    used: int | None
    pressure: float | None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What bounds a process beside its own FD limit. Bytes; None where it cannot be read.

    Attributes:
        nr_open: the most that `hard_limit` may be raised to (`fs.nr_open`).
        files_open, files_max: FDs of the whole machine and their limit (`fs.file-nr`).
        dev_shm_mount: file system and options of /dev/shm as the process sees it.
        namespace_pid: its PID inside its own PID namespace, where that is another one.
        own_mount_namespace, own_pid_namespace: whether it lives in namespaces other than the reader's.
    """

    nr_open: int | None
    files_open: int | None
    files_max: int | None
    memory_total: int | None
    memory_available: int | None
    cgroup: CgroupMemory | None
    dev_shm: DevShm | None
    dev_shm_mount: str | None
    namespace_pid: int | None
    own_mount_namespace: bool
    own_pid_namespace: bool


@dataclass(frozen=True, slots=True)
class ThreadGroup:
    """Threads of one process with the same name, state (proc_pid_stat(5)) and kernel function waited in."""

    name: str
    state: str
    waits_in: str | None
    count: int


@dataclass(frozen=True, slots=True)
class ProcessDetail:
    """What `fds` has of one process beyond the common part. `state` is R, S, D, T, t, Z or I."""

    pid: int
    state: str
    groups: tuple[FdGroup, ...] | None
    threads: tuple[ThreadGroup, ...] | None
    surroundings: Surroundings | None


@dataclass(frozen=True, slots=True)
class FdsData:
    """What only `fds` has. `since`: when the mark was saved that this is compared with: only what is new."""

    processes: tuple[ProcessDetail, ...]
    since: str | None = None
