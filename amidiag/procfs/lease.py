"""Ask the kernel itself whether anyone at all has a file open or mapped.

Needed before a file is called an orphan: processes may be hidden from this user or live outside of this
container, and an FD may travel in a unix socket, be registered with io_uring or belong to a loop device,
so that looking at every process proves nothing. A write lease is granted only where the kernel counts no
other open of the inode (fcntl(2), F_SETLEASE; fs/locks.c, check_conflicting_open), and a mapping keeps
its file open. It takes the owner of the file or CAP_LEASE, and a kernel and file system that know leases.

What it does: the file is opened for reading, for some microseconds. Nothing is read or written. Whoever
opens it in that moment waits until the lease is given back; were amidiag stopped right then, as long as
/proc/sys/fs/lease-break-time says at most.
"""

from __future__ import annotations

import fcntl
import os
import signal
import stat as modes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

Answer = Literal["nobody", "somebody", "unknown", "changed"]


@dataclass(frozen=True, slots=True)
class FileId:
    """One regular file in a directory. `changed` is `st_ctime_ns`: any change of the file moves it."""

    name: str
    device: int
    inode: int
    changed: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What the kernel said: who else has the file open; "changed" is another file or none under that name.

    With "nobody" the lease is held until the end of the `with` block.
    """

    answer: Answer
    _fd: int = -1

    def still_alone(self) -> bool:
        """Whether nobody has asked to open the file since; who has is waiting for the lease to end."""
        return self._fd >= 0 and fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK


@contextmanager
def lease(directory: int, file: FileId) -> Iterator[Lease]:
    """Ask about a file in the directory of descriptor `directory`. Links are not followed. Raises OSError."""
    fd = _open(directory, file)
    if isinstance(fd, str):
        yield Lease(fd)
        return
    try:
        answer = _ask(fd)
        # Once more, under the lease: the name may have gone to another file since.
        if not (_is(os.fstat(fd), file) and _is(_named(directory, file.name), file)):
            answer = "changed"
        if answer == "nobody":
            yield Lease(answer, fd)
            return
    finally:
        os.close(fd)  # Gives the lease back too.
    # Closed before: whoever now looks at all processes must not find this one.
    yield Lease(answer)


def _open(directory: int, file: FileId) -> int | Answer:
    """The file, opened for reading; or the answer, where it cannot be."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # O_PATH opens nothing yet: if the name has gone to a FIFO or a device, that is not touched.
        pinned = os.open(file.name, flags, dir_fd=directory)
    except FileNotFoundError:
        return "changed"
    try:
        if not _is(os.fstat(pinned), file):
            return "changed"
        # O_NONBLOCK: where another process has a lease on it, to be told so and not to wait.
        return os.open(f"/proc/self/fd/{pinned}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except BlockingIOError:
        return "somebody"
    except PermissionError:
        return "unknown"
    finally:
        os.close(pinned)  # Before the question: kernels before 5.4 count it as an open.


def _ask(fd: int) -> Answer:
    # The signal for a process that holds a lease is SIGIO, which would end this one; SIGURG is ignored.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return "somebody"
    except OSError:
        return "unknown"  # EACCES: another user's file. EINVAL: no leases here.
    return "nobody"


def _named(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is(answer: os.stat_result | None, file: FileId) -> bool:
    return (
        answer is not None
        and modes.S_ISREG(answer.st_mode)
        and (answer.st_dev, answer.st_ino, answer.st_ctime_ns) == (file.device, file.inode, file.changed)
    )
