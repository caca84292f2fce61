"""`/dev/shm` as a process sees it, opened without ever following a link."""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from amidiag.model import Identity
from amidiag.procfs.errors import CannotObserve, explain, gone, subject
from amidiag.procfs.identity import still
from amidiag.procfs.lease import FileId
from amidiag.procfs.mount_table import leads_to_local, only_tmpfs_at, own_root, read_mount_table

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class ShmFile:
    """A regular file in `/dev/shm`. Sizes in bytes, `changed_at` in seconds since the epoch."""

    id: FileId
    size: int
    allocated: int
    owner: int
    changed_at: float

    @property
    def key(self) -> tuple[int, int]:
        """(device, inode)."""
        return self.id.device, self.id.inode


@contextmanager
def open_shm(process: Identity | None) -> Iterator[int]:
    """A descriptor of `/dev/shm` as `process` sees it; None is amidiag itself.

    Raises ProcessGone, NoPermission, ReaderExhausted; CannotObserve where it is no tmpfs of its own: a
    link, a plain directory, or a file system that could block.
    """
    pid = os.getpid() if process is None else process.pid
    table = read_mount_table(pid)
    if not (only_tmpfs_at("/dev/shm", table) and leads_to_local("/dev/shm", table, own_root())):
        raise CannotObserve(pid, None, f"/dev/shm of {subject(pid, None)} is not a tmpfs: not looked at.")
    try:
        directory = _open(pid)
    except NotADirectoryError as error:
        text = f"/dev/shm of {subject(pid, None)} is a link or a file: not followed."
        raise CannotObserve(pid, None, text) from error
    except OSError as error:
        raise explain(error, pid, None, "/dev/shm") from error
    try:
        if process is not None and not still(process):
            raise gone(pid, was_seen=True)
        yield directory
    finally:
        os.close(directory)


def _open(pid: int) -> int:
    # Step by step: an absolute link below another root would lead into ours.
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        dev = os.open("dev", os.O_PATH | _DIRECTORY, dir_fd=root)
    finally:
        os.close(root)
    try:
        return os.open("shm", os.O_RDONLY | _DIRECTORY, dir_fd=dev)
    finally:
        os.close(dev)


def list_files(directory: int) -> list[ShmFile]:
    """The regular files in it, by name. Subdirectories are no shared memory (shm_overview(7)). Raises OSError."""
    found = []
    for name in sorted(os.listdir(directory)):
        try:
            answer = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue  # Removed since the listing.
        if modes.S_ISREG(answer.st_mode):
            found.append(_file(name, answer))
    return found


def _file(name: str, answer: os.stat_result) -> ShmFile:
    return ShmFile(
        id=FileId(name, answer.st_dev, answer.st_ino, answer.st_ctime_ns),
        size=answer.st_size,
        allocated=answer.st_blocks * 512,
        owner=answer.st_uid,
        changed_at=answer.st_ctime,
    )
