"""What is kept of each sort of resource when it was made: by what it will be recognised.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import posix
from posix import close, fstat, stat

from . import quiet
from .trace_layout import BY_ADDRESS, BY_INODE, BY_PROCESS, BY_THREAD, KIND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from .hook import Note
    from .trace_region import Region

    Args = tuple[Any, ...]

_PIPE, _SOCKET, _MEMFD, _FILE = KIND["pipe"], KIND["socket"], KIND["memfd"], KIND["file"]
_TERMINAL, _SHM, _RECEIVED = KIND["terminal"], KIND["shm"], KIND["received"]
_THREAD, _PROCESS, _SEMAPHORE = KIND["thread"], KIND["process"], KIND["semaphore"]
# The unhooked one; a C library without it has no eventfds.
_eventfd = getattr(posix, "eventfd", None)
_TYPE, _FIFO, _SOCK = 0o170000, 0o010000, 0o140000


class _Known:
    """Asked once, when the first table is made. `shm`: the device of /dev/shm, 0 if there is none.
    `shared`: (device, inode) that all eventfds have in common."""

    shm = 0
    shared = (0, 0)


def learn() -> None:
    """Ask the kernel what tells resources apart. Raises OSError."""
    quiet.prepare()
    try:
        _Known.shm = stat("/dev/shm").st_dev
    except OSError:
        _Known.shm = 0
    if _eventfd is None:
        return
    fd = _eventfd(0, posix.EFD_CLOEXEC)
    try:
        info = fstat(fd)
        _Known.shared = info.st_dev, info.st_ino
    finally:
        close(fd)


def pipe(region: Region, ends: tuple[int, int], args: Args, frame: FrameType) -> None:
    """Both ends have one inode."""
    fd = ends[0]
    info = fstat(fd)
    device, inode = info.st_dev, info.st_ino
    region.note((BY_INODE, device, inode), _PIPE, fd, device, inode, frame)


def memfd(region: Region, fd: int, args: Args, frame: FrameType) -> None:
    """memfd_create(2)."""
    info = fstat(fd)
    device, inode = info.st_dev, info.st_ino
    region.mapped = True
    region.note((BY_INODE, device, inode), _MEMFD, fd, device, inode, frame)


def shm(region: Region, fd: int, args: Args, frame: FrameType) -> None:
    """shm_open(3). A segment that was opened already stays that of who made it."""
    info = fstat(fd)
    if not region.knows(info.st_dev, info.st_ino):
        region.note_mapped(_SHM, fd, info.st_dev, info.st_ino, frame)


def anonymous(kind: int) -> Note:
    """For what has an inode that others have too: eventfd and timerfd; and pidfd, since Linux 6.9 that of all
    pidfds of the same process.

    The `eventfd-id` of fdinfo is not kept: the kernel gives the lowest free one, so the next eventfd of the
    same number has it again, and to read it costs more than all else here.
    """

    def note(region: Region, fd: int, args: Args, frame: FrameType) -> None:
        info = fstat(fd)
        region.note_fd(kind, fd, info.st_dev, info.st_ino, frame)

    return note


def opened(region: Region, fd: int, args: Args, frame: FrameType, kind: int = _FILE) -> None:
    """What was opened by its path: many FDs may share its inode, but a segment is known by it."""
    info = fstat(fd)
    if info.st_dev == _Known.shm:
        if not region.knows(info.st_dev, info.st_ino):
            region.note_mapped(_SHM, fd, info.st_dev, info.st_ino, frame)
    else:
        region.note_fd(kind, fd, info.st_dev, info.st_ino, frame)


def file(region: Region, result: Any, args: Args, frame: FrameType) -> None:
    """What `open` gives. Around a descriptor it makes nothing: that was made elsewhere."""
    if type(args[0] if args else None) is str or isinstance(result.name, (str, bytes)):
        opened(region, result.fileno(), args, frame)


def terminal(region: Region, fd: int, args: Args, frame: FrameType) -> None:
    """The side of a pseudo-terminal that drives it."""
    opened(region, fd, args, frame, _TERMINAL)


def terminals(region: Region, ends: tuple[int, int], args: Args, frame: FrameType) -> None:
    """Both sides of a pseudo-terminal."""
    for fd in ends:
        opened(region, fd, args, frame, _TERMINAL)


def forked_terminal(region: Region, result: tuple[int, int], args: Args, frame: FrameType) -> None:
    """A child on a terminal of its own: the terminal here, in the parent. The child's region tells of the fork."""
    if result[0]:
        opened(region, result[1], args, frame, _TERMINAL)


def child(region: Region, pid: int, args: Args, frame: FrameType) -> None:
    """A process that was started."""
    region.note_number(BY_PROCESS, _PROCESS, pid, frame)


def received(region: Region, fds: Any, args: Args, frame: FrameType) -> None:
    """Descriptors of any type that another process has sent."""
    for fd in fds:
        info = fstat(fd)
        device, inode = info.st_dev, info.st_ino
        sort = info.st_mode & _TYPE
        # Of pipes, sockets and segments the inode says more; what is known already was made here.
        own_inode = sort in (_FIFO, _SOCK, 0) or device == _Known.shm or info.st_nlink == 0
        if own_inode and (device, inode) != _Known.shared:
            if not region.knows(device, inode):
                region.note_mapped(_RECEIVED, fd, device, inode, frame)
        else:
            region.note_fd(_RECEIVED, fd, device, inode, frame)


def received_with_data(region: Region, result: tuple[Any, ...], args: Args, frame: FrameType) -> None:
    """`socket.recv_fds` gives (data, FDs, flags, address)."""
    received(region, result[1], args, frame)


def socket(fileno: Any, module_file: str) -> Note:
    """A socket object was made, perhaps around a descriptor that is known. `fileno`: of the C class.

    Of `socketpair`, `accept` and others of the module itself (`module_file`) the caller counts: they make the
    object in a line after that in which they have made the descriptor.
    """

    def note(region: Region, result: None, args: Args, frame: FrameType) -> None:
        fd = fileno(args[0])
        if fd >= 0:
            info = fstat(fd)
            if not region.knows(info.st_dev, info.st_ino):
                caller = frame.f_back if frame.f_code.co_filename == module_file else None
                region.note_inode(_SOCKET, fd, info.st_dev, info.st_ino, caller or frame)

    return note


def thread(region: Region, result: None, args: Args, frame: FrameType) -> None:
    """Started; its number is known since `start` waits for it. It may have ended already."""
    # Not getattr: a class of the program's may have its own.
    number = object.__getattribute__(args[0], "_native_id")
    if number is not None:
        region.note((BY_THREAD, number), _THREAD, -1, 0, number, frame)


def semaphore(region: Region, result: None, args: Args, frame: FrameType) -> None:
    """A SemLock of multiprocessing: known by where it is mapped."""
    region.note_number(BY_ADDRESS, _SEMAPHORE, args[0]._semlock.handle, frame)
