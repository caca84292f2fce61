"""What a sweep asks the kernel: with no file system to delay it, and no other thread let in between.

`os.fstat` of a file on a server that hangs, hangs: here only what is known without the server is asked for
(AT_STATX_DONT_SYNC, statx(2)). And what `os` asks lets other threads run meanwhile: of a thousand FDs, one by
one, that can take seconds among threads that compute. So the C library is called with the interpreter held.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os

# The unhooked ones.
from posix import close, fstat, listdir, read
from posix import open as _open

from .blame import raised_by_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

_EMPTY_PATH, _DONT_SYNC, _INODE_ONLY = 0x1000, 0x4000, 0x100
# `struct statx`, the same everywhere, in words of 8 bytes: its size, the inode, major and minor of the device.
_WORDS, _INODE, _DEVICE = 32, 4, 17
_PART = 1 << 16
# In `struct dirent64`: where the length of the entry is, and its name.
_LENGTH_AT, _NAME_AT = 16, 19


class _Library:
    """The C library; None where Python has no ctypes, or what it says of an FD is not what `os.fstat` says."""

    ctypes: Any = None
    statx: Any = None
    getdents: Any = None
    read: Any = None


def prepare() -> None:
    """Load what is needed later, in the middle of the program. Raises OSError."""
    try:
        import ctypes
    except ImportError:
        return
    libc = ctypes.PyDLL(None)
    _Library.ctypes = ctypes
    _Library.getdents = getattr(libc, "getdents64", None)
    _Library.read = libc.read
    _Library.statx = getattr(libc, "statx", None)
    fd = _open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = fstat(fd)
        # It may be too old, or refused by a seccomp filter.
        if identities([fd]) != {fd: (info.st_dev, info.st_ino)}:
            _Library.statx = None
    finally:
        close(fd)


def identities(fds: Iterable[int]) -> dict[int, tuple[int, int]]:
    """(device, inode) of those that are open, as `os.fstat` has them."""
    statx = _Library.statx
    if statx is None:
        return dict(_by_fstat(fds))
    address, room = _room(8 * _WORDS)
    words = room.cast("Q")
    c = _Library.ctypes
    no_path, flags, mask = c.c_char_p(b""), c.c_int(_EMPTY_PATH | _DONT_SYNC), c.c_uint(_INODE_ONLY)
    devices: dict[int, int] = {}
    found = {}
    for fd in fds:
        if statx(fd, no_path, flags, mask, address):
            continue  # Not open.
        raw = words[_DEVICE]
        device = devices.get(raw)
        if device is None:
            device = devices[raw] = os.makedev(raw & 0xFFFFFFFF, raw >> 32)
        found[fd] = device, words[_INODE]
    return found


def _by_fstat(fds: Iterable[int]) -> Iterator[tuple[int, tuple[int, int]]]:
    for fd in fds:
        try:
            info = fstat(fd)
        except OSError as error:
            if not raised_by_call(error):
                raise
            continue  # Not open.
        yield fd, (info.st_dev, info.st_ino)


def numbers(directory: str) -> list[int]:
    """Those that have an entry in a directory of `/proc`; takes one FD meanwhile. Raises OSError."""
    if _Library.getdents is None:
        return [int(name) for name in listdir(directory)]
    found = []
    for part in _parts(directory, os.O_DIRECTORY, _Library.getdents):
        at = 0
        while at < len(part):
            name = part[at + _NAME_AT : part.index(0, at + _NAME_AT)]
            if name.isdigit():
                found.append(int(name))
            at += part[at + _LENGTH_AT] | part[at + _LENGTH_AT + 1] << 8
    return found


def memory_map() -> list[bytes]:
    """The lines of `/proc/self/maps`; takes one FD meanwhile. Raises OSError."""
    return b"".join(_parts("/proc/self/maps", 0, _Library.read)).splitlines()


def _parts(path: str, flags: int, function: Callable[..., int] | None) -> Iterator[bytes]:
    """What `function(fd, buffer, size)` of the C library gives, time by time, until there is no more."""
    fd = _open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        if function is None:
            yield from iter(lambda: read(fd, _PART), b"")
            return
        address, room = _room(_PART)
        while size := function(fd, address, _PART):
            if size < 0:
                raise OSError(f"{path} cannot be read")
            yield bytes(room[:size])
    finally:
        close(fd)


def _room(size: int) -> tuple[Any, memoryview]:
    """Room for an answer: how the C library is told of it, and its bytes."""
    c = _Library.ctypes
    room = (c.c_ubyte * size)()
    return c.c_void_p(c.addressof(room)), memoryview(room).cast("B")
