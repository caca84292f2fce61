"""Which of the resources that were noted are closed by now, asked of the kernel from inside the program.

So no close needs to be watched. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
import resource

# The unhooked one: what the tracer opens for itself is no business of the program.
from _io import open as _open
from collections.abc import Callable, Iterable, Mapping, Sequence

from .trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, KIND

# FDs to leave free for the program: closer to its limit than this, no descriptor is opened, not even for a moment.
_HEADROOM = 64
_MOST_FDS = 1 << 20
# A segment may be mapped and held by no FD.
_MAY_BE_MAPPED = frozenset(KIND[name] for name in ("shm", "memfd", "storage", "received"))

Key = tuple[int, ...]
Record = tuple[int, ...]
"""What a slot holds: trace_layout.SLOT."""


def closed(slots: Sequence[tuple[Key, int]], record: Callable[[int], Record]) -> list[tuple[Key, int]]:
    """Which of (key, slot) are not open any more. What cannot be asked counts as open. Raises OSError.

    `record` gives what a slot holds; keys are those of `Region.note`.
    """
    by_fd = _open_files()
    inodes = {(BY_INODE, device, inode) for device, inode in by_fd.values()}
    # Most of what is in a full table is closed pipes and sockets: one look at each.
    suspects = [item for item in slots if item[0] not in inodes]
    found, unsure = [], []
    for item in suspects:
        _, kind, keyed, fd, device, inode = record(item[1])[:6]
        if keyed == BY_ADDRESS or (keyed == BY_INODE and kind in _MAY_BE_MAPPED):
            unsure.append(item)
        elif keyed == BY_INODE or not _exists(keyed, fd, device, inode, by_fd):
            found.append(item)
    mapped = _mapped(len(by_fd)) if unsure else None
    return found if mapped is None else found + [item for item in unsure if item[0] not in mapped]


def _exists(keyed: int, fd: int, device: int, inode: int, by_fd: Mapping[int, tuple[int, int]]) -> bool:
    if keyed == BY_FD:
        return by_fd.get(fd) == (device, inode)
    return os.path.exists(f"/proc/{inode}" if keyed == BY_PROCESS else f"/proc/self/task/{inode}")


def _near_the_limit(open_now: int) -> bool:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - open_now < _HEADROOM


def _open_files() -> dict[int, tuple[int, int]]:
    """(device, inode) of every open FD."""
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
    return by_fd


def _numbers(count: int) -> Iterable[int]:
    """FDs that may be open: by listing them, which takes one, or simply all that are possible."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not (count and _near_the_limit(count)):
        try:
            return [int(name) for name in os.listdir("/proc/self/fd")]
        except OSError:
            pass  # At the limit, on a kernel that does not count.
    return range(soft if 0 <= soft < _MOST_FDS else _MOST_FDS)


def _mapped(open_now: int) -> set[Key] | None:
    """Keys of what is mapped, by inode and by address; None if it cannot be asked now."""
    if _near_the_limit(open_now):
        return None
    keys: set[Key] = set()
    try:
        with _open("/proc/self/maps", "rb") as maps:
            for line in maps:
                addresses, _, _, device, inode = line.split(None, 5)[:5]
                if inode != b"0":
                    major, minor = device.split(b":")
                    keys.add((BY_INODE, os.makedev(int(major, 16), int(minor, 16)), int(inode)))
                    keys.add((BY_ADDRESS, int(addresses.split(b"-")[0], 16)))
    except OSError:
        return None
    return keys
