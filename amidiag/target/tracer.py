"""The tracer: keeps from where this program makes FDs, shared memory, threads and child processes.

`install` switches it on, `Tracer.uninstall` off again. It never changes what the program does: errors of
ours are counted and swallowed in `Tracer.swallow`, and nowhere else; what cannot be had at the start
leaves it off, with the reason in `error`. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from _thread import get_ident
from collections.abc import Callable
from types import FrameType
from typing import Any

from . import hooks, inherit
from .trace_file import SLOTS, Reservation, TraceFile
from .trace_layout import BY_FD, BY_INODE
from .trace_region import Region

_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Where the functions of Python's own that we call are written.
_CALLED = {f.__code__.co_filename for f in (os.fsdecode, os.path.join, os.path.exists)}
_OUT_OF_FDS = (errno.EMFILE, errno.ENFILE)
# This package, as installed and as `boot/sitecustomize.py` loads it where it is not.
_NAMES = ("amidiag.target.tracer", "_amidiag_target.tracer")


class Tracer:
    """The one tracer of this process and of the children that it forks.

    `error`: why it is off although it was asked for, else None. `path`: its table, None where it is off.
    """

    def __init__(self) -> None:
        self.error: str | None = None
        self.region: Region | None = None
        self._file: TraceFile | None = None
        self._reserved: dict[int, tuple[int, Reservation]] = {}
        self._claimed = 0
        self._pid = os.getpid()
        self._shared_inode = (0, 0)
        self._shm_device = 0
        self._prepared = False

    @property
    def path(self) -> str | None:
        """The table of this process."""
        return None if self._file is None else self._file.path

    def _switch_on(self, *, children: bool, slots: int) -> None:
        self._file = TraceFile(slots=slots)
        self._pid = os.getpid()
        self._shm_device = _device_of("/dev/shm")
        self._shared_inode = _shared_inode()
        if not self._prepared:
            # What is registered here cannot be taken back: it asks whether the tracer is on.
            os.register_at_fork(
                before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
            )
            atexit.register(self._at_exit)
            self._prepared = True
        self._adopt(self._file.first())
        hooks.install(self)
        if children:
            inherit.switch_on()

    def _adopt(self, region: Region | None) -> None:
        self.region = region
        if region is not None:
            self._claimed = region.claimed

    def uninstall(self) -> None:
        """Switch off, take every hook out, and remove the table. In children that were forked it goes on."""
        hooks.uninstall()
        inherit.switch_off()
        region, self.region = self.region, None
        if region is not None:
            region.off()
        self._remove_file()

    def _remove_file(self) -> None:
        file, self._file = self._file, None
        if file is not None and file.pid == os.getpid():
            file.unlink()

    def guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do something of ours that must not fail into the program."""
        try:
            work(*arguments)
        except Exception as e:  # noqa: BLE001 - see swallow
            self.swallow(e)

    def swallow(self, error: Exception) -> None:
        """The one place where errors of ours end, counted. What a signal handler has raised is the program's."""
        if not _is_ours(error):
            raise error
        if self.region is not None:
            self.region.swallowed()

    def note_fd(self, kind: int, fd: int, frame: FrameType, *, first_wins: bool = False) -> None:
        """Keep where an FD was made that is known by its inode: a pipe, a socket, a piece of shared memory."""
        region = self.region
        if region is not None:
            info = os.fstat(fd)
            region.note(kind, BY_INODE, fd, info.st_dev, info.st_ino, frame, first_wins=first_wins)

    def note_opened(self, kind: int, shm: int, fd: int, frame: FrameType) -> None:
        """Keep where a path was opened: many FDs may share its inode, but a segment is known by it (as `shm`)."""
        region = self.region
        if region is not None:
            info = os.fstat(fd)
            if info.st_dev == self._shm_device:
                region.note(shm, BY_INODE, fd, info.st_dev, info.st_ino, frame)
            else:
                region.note(kind, BY_FD, fd, info.st_dev, info.st_ino, frame)

    def note_received(self, kind: int, fd: int, frame: FrameType) -> None:
        """Keep where an FD of any type was received."""
        region = self.region
        if region is not None:
            info = os.fstat(fd)
            # Of the types that share inodes many may come; of pipes, sockets and segments the inode says more.
            unique = info.st_nlink == 0 or info.st_dev == self._shm_device or not _is_file(info.st_mode)
            shared = (info.st_dev, info.st_ino) == self._shared_inode
            keyed = BY_INODE if unique and not shared else BY_FD
            region.note(kind, keyed, fd, info.st_dev, info.st_ino, frame, first_wins=True)

    def note_event(self, kind: int, fd: int, frame: FrameType, extra: int = 0) -> None:
        """Keep where a descriptor was made whose inode others may have too: eventfd, timerfd, pidfd."""
        region = self.region
        if region is not None:
            info = os.fstat(fd)
            shared = (info.st_dev, info.st_ino) == self._shared_inode
            keyed = BY_FD if shared else BY_INODE
            region.note(kind, keyed, fd, info.st_dev, info.st_ino, frame, extra)

    def note_path(self, kind: int, path: str, frame: FrameType) -> None:
        """Keep where a segment with a name was made."""
        region = self.region
        if region is not None:
            info = os.stat(path)
            region.note(kind, BY_INODE, -1, info.st_dev, info.st_ino, frame, first_wins=True)

    def note_number(self, kind: int, keyed: int, number: int, frame: FrameType) -> None:
        """Keep where a thread or process was started, or (as `extra`) where a semaphore lies."""
        region = self.region
        if region is not None:
            region.note(kind, keyed, -1, 0, number, frame, number)

    def failed(self, error: BaseException) -> None:
        """A creation failed: count it if FDs ran out. Never raises."""
        if isinstance(error, OSError) and error.errno in _OUT_OF_FDS and self.region is not None:
            self.guarded(self.region.failed_for_want_of_fds)

    def _before_fork(self) -> None:
        if self.region is not None:
            self.guarded(self._reserve, sys._getframe(1))

    def _reserve(self, frame: FrameType) -> None:
        region = self.region
        if region is None:
            return
        if self._file is None:
            # A forked child that forks: its own region is its parent's gift, those of its children are not.
            self._file = TraceFile(with_first=False)
        reservation = self._file.reserve((self._pid, region.claimed), region.site(frame))
        if reservation is not None:
            # By thread: another may fork at the same moment.
            self._reserved[get_ident()] = (self._pid, reservation)

    def _after_fork(self) -> None:
        self._reserved.pop(get_ident(), None)

    def _in_child(self) -> None:
        if self.region is not None:
            self.region = None
            self.guarded(self._begin_in_child)

    def _begin_in_child(self) -> None:
        _, reservation = self._reserved.get(get_ident(), (0, None))
        self._reserved = {}
        self._file = None
        self._pid = os.getpid()
        region = None if reservation is None else reservation.claim()
        if region is None:
            self._file = TraceFile()
            region = self._file.first()
        self._adopt(region)

    def _at_exit(self) -> None:
        # After an uncaught error, or when FDs have run out, somebody will want to know from where.
        region = self.region
        orderly = getattr(sys, "last_type", None) is None and (region is None or region.emfile == 0)
        if orderly:
            self.guarded(self._remove_file)


def install(*, children: bool = True, slots: int = SLOTS) -> Tracer:
    """Switch tracing on in this process and in those that it forks, and give the tracer. Never raises.

    `children`: Python programs that it starts are traced too, by `AMI_DIAG_TRACE` in their environment.
    `slots`: how many resources the table holds; `AMIDIAG_TRACE_SLOTS` in the environment wins.
    A second call gives the same tracer. Where it cannot be switched on, `Tracer.error` says why.
    """
    tracer = _existing()
    if tracer.region is None:
        tracer.error = None
        try:
            tracer._switch_on(children=children, slots=_slots(slots))
        except Exception as e:  # noqa: BLE001 - a program must not stop because it cannot be traced
            tracer.error = f"{type(e).__name__}: {e}"
            tracer.uninstall()
            inherit.give_up()
    return tracer


def _existing() -> Tracer:
    """The tracer of this process, by whichever name this package was loaded first."""
    for name in _NAMES:
        tracer = getattr(sys.modules.get(name), "TRACER", None)
        if tracer is not None and tracer.region is not None:
            found: Tracer = tracer
            return found
    return TRACER


def _slots(default: int) -> int:
    text = os.environ.get("AMIDIAG_TRACE_SLOTS", "")
    return min(max(int(text), 16), 1 << 22) if text.isdigit() else default


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by this package, or by `os` on its behalf.

    Signal handlers run between any two of our steps, and what they raise must reach the program: of that
    the innermost frame is theirs.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    file = trace.tb_frame.f_code.co_filename
    return file.startswith(_OWN_DIRECTORY) or file in _CALLED


def _device_of(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return 0


def _shared_inode() -> tuple[int, int]:
    """(device, inode) that all eventfds have in common."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        info = os.fstat(fd)
        return info.st_dev, info.st_ino
    finally:
        os.close(fd)


def _is_file(mode: int) -> bool:
    return mode & 0o170000 in (0o100000, 0o040000, 0o020000, 0o060000)


TRACER = Tracer()
