"""Ask the kernel itself whether anyone at all holds the far end of a pipe.

To look at every descriptor of the machine proves nothing: processes are hidden from this user or live outside
of this container, and an end may be in no process, in flight in a unix socket or registered with io_uring. The
kernel counts the readers and writers of a pipe, and poll(2) on an end shows whether the other count is zero
(fs/pipe.c, pipe_poll): POLLHUP without writers, POLLERR without readers.

What it does to the target: for some 10 to 100 µs its end is held once more, by a copy (pidfd_getfd(2), since
Linux 5.6; a few dozen ends are copied, asked and closed together) or, where that is refused, by one more end
*of the same kind*. If the target closes its own in that moment, the far side learns of it these microseconds
later, as if the scheduler had been late. Nothing is read or written. FIFOs are never asked: to open one can
wake a process that waits in open(2).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat as modes
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter

from amidiag.procfs.fds import READ, WRITE, open_directory, open_mode

_PIDFD_GETFD = 438  # The same on every architecture but Alpha.
_REFUSED = (errno.EPERM, errno.ENOSYS, errno.EINVAL)
_FULL = (errno.EMFILE, errno.ENFILE)
# Few, so that no copy lives longer than it takes to make some dozens; more would hardly be cheaper.
_AT_ONCE = 48
_CLOSED = -1

# A read end without writers, a write end without readers; nothing is reported of what has both.
_IS: dict[int | None, int] = {select.POLLHUP: READ, select.POLLERR: WRITE, None: 0}
_FLAGS = {READ: os.O_RDONLY, WRITE: os.O_WRONLY}

Asked = tuple[str, str]
"""An FD and its link, `pipe:[4711]`."""
_FD = itemgetter(0)


class FarEndProbe:
    """Asks about pipe ends of one process. Use as `with FarEndProbe(pid) as probe`. Raises OSError.

    `copying=False` forces the way that opens one more end: several times as dear, but a process that this
    user may only look at allows it, and so do kernels before 5.6. `opening=False` leaves that way out.
    """

    def __init__(self, pid: int, *, copying: bool = True, opening: bool = True) -> None:
        self._opening = opening
        self._poll = select.poll()
        self._polled: list[int] = []
        with contextlib.ExitStack() as stack:
            self._directory = open_directory(pid)
            stack.callback(os.close, self._directory)
            self._own = open_directory(os.getpid())
            stack.callback(os.close, self._own)
            self._copier = _copier(pid, stack) if copying else None
            self._stack = stack.pop_all()

    def __enter__(self) -> FarEndProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lonely(self, ends: Sequence[Asked], *, any_pipe: bool = False) -> list[int | None]:
        """Of each end: READ or WRITE, which end it is, if no process of the machine holds the opposite.

        0 where somebody does, and None where it could not be asked: closed, O_PATH, or of another pipe by now.
        With `any_pipe` the answer is of whatever pipe the FD leads to by now, which spares an `fstat` of each.
        """
        answers: list[int | None] = []
        while len(answers) < len(ends):
            some = ends[len(answers) : len(answers) + _AT_ONCE]
            if self._copier is None and not self._opening:
                answers += [None] * len(some)
            elif self._copier is None:
                answers += self._ask_by_opening(*some[0])
            else:
                answers += self._ask_copies(some, any_pipe=any_pipe)
        return answers

    def _ask_copies(self, ends: Sequence[Asked], *, any_pipe: bool) -> list[int | None]:
        """The answers for as many of them as there was room for: at least one, but where copying is refused."""
        copies: list[int] = []
        try:
            self._fill(copies, ends)
            pipes = copies if any_pipe and _all_pipes(copies) else _pipes_of(copies, ends, any_pipe=any_pipe)
            answers = self._far_ends(pipes)
        finally:
            _close(copies)
        if len(pipes) == len(copies):
            return answers
        found = dict(zip(pipes, answers, strict=True))
        return [found.get(copy) for copy in copies]

    def _fill(self, copies: list[int], ends: Sequence[Asked]) -> None:
        assert self._copier is not None
        # Extended and not assigned: so those that were made before an exception are closed as well.
        copies.extend(self._copier.copy_all(map(int, map(_FD, ends))))
        if min(copies) >= 0:
            return
        # One was closed, or there is no room, or it is refused: each for itself, to learn which.
        _close(copies)
        copies.clear()
        for fd, _ in ends:
            end = self._copier.copy(int(fd))
            if end >= 0:
                copies.append(end)
                continue
            error = _errno()
            if error == errno.EBADF:
                copies.append(_CLOSED)
                continue
            if error in _REFUSED:
                self._copier = None
            elif error not in _FULL or not copies:
                raise OSError(error, os.strerror(error))
            return  # Our own table is full: what has been copied is asked, and makes room.

    def _ask_by_opening(self, fd: str, link: str) -> list[int | None]:
        try:
            # O_PATH opens nothing yet: if the number has gone to a terminal or a tape, that is not touched.
            pinned = os.open(fd, os.O_PATH | os.O_CLOEXEC, dir_fd=self._directory)
        except (FileNotFoundError, PermissionError):
            return [None]  # Closed meanwhile, or refused.
        try:
            answer = os.fstat(pinned)
            if answer.st_ino != int(link[6:-1]) or not modes.S_ISFIFO(answer.st_mode):
                return [None]  # The number has gone to another file.
            mode = open_mode(fd, self._directory)
            if mode not in _FLAGS:
                return [0 if mode else None]
            end = os.open(str(pinned), _FLAGS[mode] | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._own)
        except (FileNotFoundError, PermissionError):
            return [None]  # Closed, or made by another user before a setuid: its inode is not ours to open.
        finally:
            os.close(pinned)
        try:
            return self._far_ends([end])
        finally:
            os.close(end)

    def _far_ends(self, ends: list[int]) -> list[int | None]:
        """READ or WRITE for each of these own descriptors of which the kernel knows no opposite end, else 0."""
        # Nearly always the same numbers, the lowest that are free: what was registered under them holds again.
        if ends != self._polled:
            self._polled, self._poll = ends, select.poll()
            for end in ends:
                self._poll.register(end, 0)
        # POLLHUP and POLLERR are reported without being asked for, and nothing else is.
        return list(map(_IS.get, map(dict(self._poll.poll(0)).get, ends)))


class _Copier:
    """Copies FDs of one process into this one."""

    def __init__(self, pidfd: int) -> None:
        import ctypes

        self._pidfd = pidfd
        self._call = ctypes.CDLL(None).syscall
        self._call_for_error = ctypes.CDLL(None, use_errno=True).syscall

    def copy_all(self, fds: Iterable[int]) -> Iterator[int]:
        """The copies, one by one; -1 where there is none. A loop of our own would cost a third of it again."""
        return map(self._call, repeat(_PIDFD_GETFD), repeat(self._pidfd), fds, repeat(0))

    def copy(self, fd: int) -> int:
        """The copy of one; where it is below 0, `_errno` tells why."""
        return int(self._call_for_error(_PIDFD_GETFD, self._pidfd, fd, 0))


def _all_pipes(copies: Sequence[int]) -> bool:
    try:
        return all(map(fcntl.fcntl, copies, repeat(fcntl.F_GETPIPE_SZ)))
    except (OSError, ValueError):
        return False


def _pipes_of(copies: Sequence[int], ends: Sequence[Asked], *, any_pipe: bool = False) -> list[int]:
    """Those of the copies that lead to the pipe which the end was asked of, or to `any_pipe`."""
    try:
        # Whether it is a pipe at all is asked of no file system: the number may lead elsewhere by now.
        return [
            copy
            for copy, (_, link) in zip(copies, ends, strict=False)
            if fcntl.fcntl(copy, fcntl.F_GETPIPE_SZ)
            and (any_pipe or os.fstat(copy).st_ino == int(link[6:-1]))
        ]
    except (OSError, ValueError):
        # One of them is no pipe, or was closed: then each for itself.
        if len(copies) == 1:
            return []
    return [
        pipe
        for copy, end in zip(copies, ends, strict=False)
        for pipe in _pipes_of([copy], [end], any_pipe=any_pipe)
    ]


def _close(copies: Sequence[int]) -> None:
    # Those of them that are a run of numbers, as nearly always, in one call: nothing else is among them.
    if copies and copies == list(range(copies[0], copies[0] + len(copies))) and copies[0] != _CLOSED:
        os.closerange(copies[0], copies[-1] + 1)
        return
    for copy in copies:
        if copy != _CLOSED:
            os.close(copy)


def _copier(pid: int, stack: contextlib.ExitStack) -> _Copier | None:
    """What copies FDs of the process; None where this Python cannot."""
    try:
        pidfd = os.pidfd_open(pid)
        stack.callback(os.close, pidfd)
        return _Copier(pidfd)
    except (ImportError, AttributeError, PermissionError):
        return None
    except OSError as error:
        if error.errno in _REFUSED:
            return None
        raise


def _errno() -> int:
    import ctypes

    return ctypes.get_errno()
