"""Which of the resources that were noted are closed by now, asked of the kernel from inside the program.

So no close needs to be watched. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
import resource

# The unhooked one: what the tracer opens for itself is no business of the program.
from _io import open as _open
from collections.abc import Iterable, Iterator, Sequence

from .trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, KIND

# FDs to leave free for the program: closer to its limit than this, no descriptor is opened, not even for a moment.
_HEADROOM = 64
_MOST_FDS = 1 << 20
# A segment may be mapped and held by no FD.
_MAY_BE_MAPPED = frozenset(KIND[name] for name in ("shm", "memfd", "storage", "received"))

Entry = tuple[tuple[int, ...], int, tuple[int, ...]]
"""Key, slot, and what the slot holds (trace_layout.SLOT)."""


def closed(entries: Sequence[Entry]) -> Iterator[tuple[tuple[int, ...], int]]:
    """(key, slot) of what is not open any more. What cannot be asked counts as open."""
    inodes, by_fd = _open_inodes()
    mapped: tuple[set[tuple[int, int]], set[int]] | None = None
    asked = False
    for key, slot, (_, kind, keyed, fd, device, inode, _, _, _, extra, _) in entries:
        if keyed == BY_INODE:
            gone = (device, inode) not in inodes
        elif keyed == BY_FD:
            gone = by_fd.get(fd) != (device, inode)
        elif keyed == BY_ADDRESS:
            gone = True
        else:
            gone = not os.path.exists(f"/proc/{inode}" if keyed == BY_PROCESS else f"/proc/self/task/{inode}")
        if gone and (keyed == BY_ADDRESS or (keyed == BY_INODE and kind in _MAY_BE_MAPPED)):
            if not asked:
                mapped, asked = _mapped(len(by_fd)), True
            gone = mapped is not None and not (
                extra in mapped[1] if keyed == BY_ADDRESS else (device, inode) in mapped[0]
            )
        if gone:
            yield key, slot


def _near_the_limit(open_now: int) -> bool:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - open_now < _HEADROOM


def _open_inodes() -> tuple[set[tuple[int, int]], dict[int, tuple[int, int]]]:
    by_fd = {}
    # Since Linux 6.2 this is how many there are; 0 before.
    count = os.stat("/proc/self/fd").st_size
    for fd in _numbers(count):
        try:
            info = os.fstat(fd)
        except OSError:
            continue  # Not open.
        by_fd[fd] = info.st_dev, info.st_ino
        if len(by_fd) == count:
            break
    return set(by_fd.values()), by_fd


def _numbers(count: int) -> Iterable[int]:
    """FDs that may be open: by listing them, which takes one, or simply all that are possible."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not (count and _near_the_limit(count)):
        try:
            return [int(name) for name in os.listdir("/proc/self/fd")]
        except OSError:
            pass  # At the limit, on a kernel that does not count.
    return range(soft if 0 <= soft < _MOST_FDS else _MOST_FDS)


def _mapped(open_now: int) -> tuple[set[tuple[int, int]], set[int]] | None:
    """(device, inode) and start of every mapping that has an inode; None if it cannot be asked now."""
    if _near_the_limit(open_now):
        return None
    keys, starts = set(), set()
    try:
        with _open("/proc/self/maps", "rb") as maps:
            for line in maps:
                addresses, _, _, device, inode = line.split(None, 5)[:5]
                if inode != b"0":
                    major, minor = device.split(b":")
                    keys.add((os.makedev(int(major, 16), int(minor, 16)), int(inode)))
                    starts.add(int(addresses.split(b"-")[0], 16))
    except OSError:
        return None
    return keys, starts
