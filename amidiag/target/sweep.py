"""Which of the resources that were noted are closed by now, asked of the kernel from inside the program.

So no close needs to be watched. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

# Never one that is traced, nor one that the program has replaced (`mock.patch("os.stat")`).
from _io import open as _open
from errno import EMFILE
from os import makedev
from posix import fstat, kill, listdir, stat
from resource import RLIMIT_NOFILE, getrlimit

from .trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, KIND, SLOT_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# FDs to leave free for the program: closer to its limit than this, no descriptor is opened, not even for a moment.
_HEADROOM = 64
_MOST_FDS = 1 << 20
# A segment may be mapped and held by no FD.
_MAY_BE_MAPPED = frozenset(KIND[name] for name in ("shm", "memfd", "storage", "received"))

# A slot in words of 8 bytes (trace_layout.SLOT): the second holds kind, keyed and FD.
SLOT_WORDS = SLOT_SIZE // 8
KIND_WORD, DEVICE_WORD, INODE_WORD = 1, 2, 3
_KIND_MASK = 0xFFFF

Key = tuple[int, ...]


def closed(slot_of: dict[Key, int], words: memoryview) -> list[Key]:
    """The keys of what is not open any more. What cannot be asked counts as open.

    `words`: the slots as they were before; what has been taken or written since is left alone. Keys are
    those of `Region`. Raises OSError where there is no `/proc` (a program may have changed its root), or
    where not all of what is open can be seen.
    """
    by_fd = _open_files()
    # In C, so no other thread adds a key meanwhile. Most of a full table is pipes and sockets, closed.
    suspects = slot_of.keys() - {(BY_INODE, device, inode) for device, inode in by_fd.values()}
    found, unsure = [], []
    size = len(words)
    for key in suspects:
        at = slot_of[key] * SLOT_WORDS
        kind = words[at + KIND_WORD] & _KIND_MASK if at < size else 0
        keyed = key[0]
        if kind == 0:
            continue
        if keyed == BY_ADDRESS or (keyed == BY_INODE and kind in _MAY_BE_MAPPED):
            unsure.append(key)
        elif keyed == BY_INODE:
            found.append(key)
        elif keyed == BY_FD:
            if by_fd.get(key[1]) != (words[at + DEVICE_WORD], words[at + INODE_WORD]):
                found.append(key)
        elif not _lives(*key):
            found.append(key)
    mapped = _mapped(len(by_fd)) if unsure else None
    return found if mapped is None else found + [key for key in unsure if key not in mapped]


def _lives(keyed: int, number: int) -> bool:
    """Whether there is such a process, or such a thread of ours."""
    if keyed == BY_PROCESS:
        return alive(number)
    try:
        stat(f"/proc/self/task/{number}")
    except FileNotFoundError:
        return False
    return True


def alive(pid: int) -> bool:
    """Whether there is such a process. One that nobody has waited for is."""
    try:
        kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It lives, as somebody else.
    return True


def _open_files() -> dict[int, tuple[int, int]]:
    """(device, inode) of every open FD."""
    limit = _limit()
    # Since Linux 6.2 this is how many are open; 0 before.
    count = stat("/proc/self/fd").st_size
    if limit - count >= _HEADROOM:
        return _identities(_listed(limit))
    by_fd = _identities(range(limit))
    if len(by_fd) < count:
        raise OSError(EMFILE, "some of what is open lies above the limit, which was lowered")
    return by_fd


def _limit() -> int:
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return soft if soft >= 0 else _MOST_FDS


def _listed(limit: int) -> Iterable[int]:
    """The numbers of what is open. To list them takes one."""
    try:
        return [int(name) for name in listdir("/proc/self/fd")]
    except OSError:
        return range(min(limit, _MOST_FDS))  # At the limit, on a kernel that does not count.


def _identities(fds: Iterable[int]) -> dict[int, tuple[int, int]]:
    by_fd = {}
    for fd in fds:
        try:
            info = fstat(fd)
        except OSError:
            continue  # Not open.
        by_fd[fd] = info.st_dev, info.st_ino
    return by_fd


def _mapped(open_now: int) -> set[Key] | None:
    """Keys of what is mapped, by inode and by address; None if it cannot be asked now."""
    if _limit() - open_now < _HEADROOM:
        return None
    keys: set[Key] = set()
    try:
        with _open("/proc/self/maps", "rb") as maps:
            for line in maps:
                addresses, _, _, device, inode = line.split(None, 5)[:5]
                if inode != b"0":
                    major, minor = device.split(b":")
                    keys.add((BY_INODE, makedev(int(major, 16), int(minor, 16)), int(inode)))
                    keys.add((BY_ADDRESS, int(addresses.split(b"-")[0], 16)))
    except OSError:
        return None
    return keys
