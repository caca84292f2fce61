"""Ask the kernel itself whether anyone at all holds the far end of a pipe.

Needed where processes are hidden from this user or live outside of this container, so that looking at
every descriptor proves nothing. The kernel counts the readers and writers of a pipe, and poll(2) on an
end shows whether the other count is zero (fs/pipe.c, pipe_poll): POLLHUP without writers, POLLERR
without readers. Also right for ends in flight in a unix socket or registered with io_uring.

What it does to the target: for some 5 µs the pipe has one more end *of the kind that the target holds
anyway*. If the target closes its own in that moment, the far side learns of it these microseconds later,
as if the scheduler had been late. The descriptor is not the target's (as with pidfd_getfd(2)), nothing
is read or written. FIFOs are never asked: to open one can wake a process that waits in open(2).
"""

from __future__ import annotations

import os
import select
import stat as modes

from amidiag.procfs.fds import READ, open_directory


class FarEndProbe:
    """Asks about pipe ends of one process. Use as `with FarEndProbe(pid) as probe`. Raises OSError."""

    def __init__(self, pid: int) -> None:
        self._directory = open_directory(pid)
        try:
            self._own = open_directory(os.getpid())
        except OSError:
            os.close(self._directory)
            raise

    def __enter__(self) -> FarEndProbe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)
        os.close(self._own)

    def is_orphan(self, fd: str, inode: int, mode: int) -> bool | None:
        """Whether no process of the machine holds the opposite end; None where it could not be asked.

        `mode` is how the target opened `fd`: READ or WRITE.
        """
        try:
            # O_PATH opens nothing yet: if the number has gone to a terminal or a tape, that is not touched.
            pinned = os.open(fd, os.O_PATH | os.O_CLOEXEC, dir_fd=self._directory)
        except (FileNotFoundError, PermissionError):
            return None  # Closed meanwhile, or refused.
        try:
            answer = os.fstat(pinned)
            if answer.st_ino != inode or not modes.S_ISFIFO(answer.st_mode):
                return None  # The number has gone to another file.
            return self._has_no_far_end(pinned, os.O_RDONLY if mode == READ else os.O_WRONLY)
        except PermissionError:
            return None  # Made by another user before a setuid: its inode is not ours to open.
        finally:
            os.close(pinned)

    def _has_no_far_end(self, pinned: int, access: int) -> bool:
        end = os.open(str(pinned), access | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._own)
        try:
            poll = select.poll()
            poll.register(end, 0)  # POLLHUP and POLLERR are reported without being asked for.
            return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))
        finally:
            os.close(end)
