"""SysV shared memory as the kernel lists it (`/proc/sysvipc/shm`, sysvipc(7)), of the reader's IPC namespace."""

from __future__ import annotations

import os
from dataclasses import dataclass

_DEST = 0o1000  # SHM_DEST: goes with its last user (shmctl(2), IPC_RMID).
_IPC_RMID = 0


@dataclass(frozen=True, slots=True)
class SysvSegment:
    """One row. Sizes in bytes, times in seconds since the epoch.

    `attached`: how many mappings there are, over all processes of the machine: the kernel's own count.
    `allocated`: in memory or swap. `creator`: None where it lives in a PID namespace out of sight.
    `used_at`: the last of creation, change, attaching and detaching. `doomed`: removed already, goes with
    its last user.
    """

    shmid: int
    key: int
    size: int
    allocated: int
    attached: int
    creator: int | None
    owner: int
    changed_at: float
    used_at: float
    doomed: bool


def read_sysv() -> list[SysvSegment]:
    """All of them; none where this kernel has no SysV shared memory."""
    try:
        with open("/proc/sysvipc/shm", "rb") as file:
            rows = [line.split() for line in file]
    except FileNotFoundError:
        return []
    titles = [title.decode() for title in rows[0]]
    return [_row(dict(zip(titles, row, strict=False))) for row in rows[1:]]


def same_ipc_namespace(pid: int) -> bool:
    """Whether that table is the one of process `pid`. False where this user may not ask."""
    try:
        return os.stat(f"/proc/{pid}/ns/ipc").st_ino == os.stat("/proc/self/ns/ipc").st_ino
    except OSError:
        return False  # Ended, another user's, or a kernel without the namespace.


def _row(fields: dict[str, bytes]) -> SysvSegment:
    number = {title: int(fields[title]) for title in fields if title != "perms"}
    return SysvSegment(
        shmid=number["shmid"],
        key=number["key"],
        size=number["size"],
        allocated=number["rss"] + number["swap"],
        attached=number["nattch"],
        creator=number["cpid"] or None,
        owner=number["uid"],
        changed_at=float(number["ctime"]),
        used_at=float(max(number["ctime"], number["atime"], number["dtime"])),
        doomed=bool(int(fields["perms"], 8) & _DEST),
    )


def remove_sysv(shmid: int) -> None:
    """Remove a segment: shmctl(2), IPC_RMID. Raises OSError.

    Where a process attaches it in this very moment, it keeps it: the kernel only takes the name away.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmctl(ctypes.c_int(shmid), ctypes.c_int(_IPC_RMID), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
