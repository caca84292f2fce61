"""Ask the kernel itself whether anyone at all holds the far end of a pipe.

Needed where processes are hidden from this user or live outside of this container, so that looking at
every descriptor proves nothing. The kernel counts the readers and writers of a pipe, and poll(2) on an
end shows whether the other count is zero (fs/pipe.c, pipe_poll): POLLHUP without writers, POLLERR
without readers. Also right for ends in flight in a unix socket or registered with io_uring.

What it does to the target: for some 3 to 5 µs its end is held once more, by a copy (pidfd_getfd(2), since
Linux 5.6) or, where that is refused, by one more end *of the same kind*. If the target closes its own in that
moment, the far side learns of it these microseconds later, as if the scheduler had been late. Nothing is read
or written. FIFOs are never asked: to open one can wake a process that waits in open(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat as modes
from collections.abc import Callable

from amidiag.procfs.fds import READ, open_directory

_PIDFD_GETFD = 438  # The same on every architecture but Alpha.
_REFUSED = (errno.EPERM, errno.ENOSYS, errno.EINVAL)


class FarEndProbe:
    """Asks about pipe ends of one process. Use as `with FarEndProbe(pid) as probe`. Raises OSError.

    `copying=False` forces the way that opens one more end: twice as dear, but a process that this user may
    only look at allows it, and so do kernels before 5.6.
    """

    def __init__(self, pid: int, *, copying: bool = True) -> None:
        self._poll = select.poll()
        self._registered = -1
        with contextlib.ExitStack() as stack:
            self._directory = open_directory(pid)
            stack.callback(os.close, self._directory)
            self._own = open_directory(os.getpid())
            stack.callback(os.close, self._own)
            self._copy = _copier(pid, stack) if copying else None
            self._stack = stack.pop_all()

    def __enter__(self) -> FarEndProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_orphan(self, fd: str, inode: int, mode: int) -> bool | None:
        """Whether no process of the machine holds the opposite end; None where it could not be asked.

        `mode` is how the target opened `fd`: READ or WRITE.
        """
        if self._copy is not None:
            try:
                end = self._copy(int(fd))
            except OSError as error:
                if error.errno == errno.EBADF:
                    return None  # Closed meanwhile.
                if error.errno not in _REFUSED:
                    raise
                self._copy = None
            else:
                return self._ask_copy(end, inode)
        return self._ask_by_opening(fd, inode, mode)

    def _ask_copy(self, end: int, inode: int) -> bool | None:
        try:
            # Whether it is a pipe at all is asked of no file system: the number may lead elsewhere by now.
            fcntl.fcntl(end, fcntl.F_GETPIPE_SZ)
            return self._has_no_far_end(end) if os.fstat(end).st_ino == inode else None
        except OSError as error:
            if error.errno == errno.EBADF:
                return None
            raise
        finally:
            os.close(end)

    def _ask_by_opening(self, fd: str, inode: int, mode: int) -> bool | None:
        try:
            # O_PATH opens nothing yet: if the number has gone to a terminal or a tape, that is not touched.
            pinned = os.open(fd, os.O_PATH | os.O_CLOEXEC, dir_fd=self._directory)
        except (FileNotFoundError, PermissionError):
            return None  # Closed meanwhile, or refused.
        try:
            answer = os.fstat(pinned)
            if answer.st_ino != inode or not modes.S_ISFIFO(answer.st_mode):
                return None  # The number has gone to another file.
            access = os.O_RDONLY if mode == READ else os.O_WRONLY
            end = os.open(str(pinned), access | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._own)
        except PermissionError:
            return None  # Made by another user before a setuid: its inode is not ours to open.
        finally:
            os.close(pinned)
        try:
            return self._has_no_far_end(end)
        finally:
            os.close(end)

    def _has_no_far_end(self, end: int) -> bool:
        # Nearly always the same number, the lowest that is free: what was registered under it holds again.
        if end != self._registered:
            if self._registered >= 0:
                self._poll.unregister(self._registered)
            self._poll.register(end, 0)
            self._registered = end
        # POLLHUP and POLLERR are reported without being asked for, and nothing else is.
        return bool(self._poll.poll(0))


def _copier(pid: int, stack: contextlib.ExitStack) -> Callable[[int], int] | None:
    """What copies an FD of the process into this one; None where this Python cannot."""
    try:
        import ctypes

        pidfd = os.pidfd_open(pid)
    except (ImportError, AttributeError, PermissionError):
        return None
    except OSError as error:
        if error.errno in _REFUSED:
            return None
        raise
    stack.callback(os.close, pidfd)
    system_call = ctypes.CDLL(None, use_errno=True).syscall

    def copy(fd: int) -> int:
        end: int = system_call(_PIDFD_GETFD, pidfd, fd, 0)
        if end < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return end

    return copy
