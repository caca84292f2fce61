"""A piece of shared memory, and how its name tells its kind."""

from __future__ import annotations

import os
from typing import NamedTuple

SHM_DIRECTORY = "/dev/shm/"
MEMFD = "/memfd:"
KINDS = ("torch", "posix", "tmpfs", "memfd", "sysv", "anonymous", "device")

# What the kernel calls shared anonymous memory (mm/shmem.c, shmem_zero_setup).
_ANONYMOUS = "/dev/zero (deleted)"


class Segment(NamedTuple):
    """Shared memory that a process maps or holds open. Sizes in bytes.

    `allocated` are its blocks in memory or swap; None where it could not be asked. `size` is what it
    was given by ftruncate(2), which a sparse segment need not use. `changed_at`: `st_ctime`, None where
    it could not be asked.
    """

    device: int
    inode: int
    kind: str
    name: str
    size: int | None
    allocated: int | None
    changed_at: float | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What makes it one and the same wherever it is seen: (device, inode)."""
        return self.device, self.inode


def kind_of(name: str) -> str | None:
    """The kind of shared memory behind a link of `/proc/PID/fd` or a name in `maps`; None where the name tells none."""
    if name.startswith(SHM_DIRECTORY):
        return "torch" if name.startswith(SHM_DIRECTORY + "torch_") else "posix"
    if name.startswith(MEMFD):
        return "memfd"
    if name.startswith("/SYSV"):
        return "sysv"
    return "anonymous" if name == _ANONYMOUS else None


def kind_in_memory(name: str) -> str:
    """The kind of a file that is known to live in memory, on whatever tmpfs."""
    # A container's /dev/shm has another path from outside.
    return kind_of(name) or ("torch" if name.rpartition("/")[2].startswith("torch_") else "tmpfs")


def is_our_own(name: str) -> bool:
    """Whether a mapped file is a status page or call-site table (amidiag.target): what measures is not measured."""
    stem, _, suffix = name.removesuffix(" (deleted)").rpartition("/")[2].partition(".")
    return suffix in ("status", "trace") and stem.replace("-", "").isdigit()


def segment_of(name: str, kind: str, stat: os.stat_result) -> Segment:
    """The segment that `stat` was asked of."""
    # st_blocks counts 512 bytes, whatever st_blksize says (stat(3type)).
    return Segment(stat.st_dev, stat.st_ino, kind, name, stat.st_size, stat.st_blocks * 512, stat.st_ctime)
