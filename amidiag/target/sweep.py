"""Which of the resources that were noted are closed by now, asked of the kernel from inside the program.

So no close needs to be watched. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

from errno import EMFILE
from os import makedev
from posix import kill, stat
from resource import RLIMIT_NOFILE, getrlimit

from . import quiet
from .trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, BY_THREAD, KIND, SLOT_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# FDs to leave free for the program: closer to its limit than this, no descriptor is opened, not even for a moment.
_HEADROOM = 64
_MOST_FDS = 1 << 20
_PLAIN = (KIND["pipe"], KIND["socket"])

# A slot in words of 8 bytes (trace_layout.SLOT): the second holds kind, keyed and FD.
SLOT_WORDS = SLOT_SIZE // 8
KIND_WORD, DEVICE_WORD, INODE_WORD = 1, 2, 3
_KIND_MASK = 0xFFFF

Key = tuple[int, ...]


# Devices of pipes and sockets, which are never mapped, and whose inodes do not come again. Learnt on the way.
_plain_devices: set[int] = set()


class Look:
    """What was open at one moment; what has been noted since is not its business.

    Keys are those of `Region`. Raises OSError where there is no `/proc` (a program may have changed its
    root), or where not all of what is open can be seen.
    """

    def __init__(self, slot_of: dict[Key, int], words: memoryview) -> None:
        """`words`: the slots that are in use."""
        # What was noted and how it was written, as it is before it is asked what is open.
        noted = set(slot_of)
        self._then = memoryview(bytes(words)).cast("Q")
        self._by_fd = _open_files()
        self._mapped: set[Key] | None = None
        self._asked = False
        self.suspects = list(noted - {(BY_INODE, device, inode) for device, inode in self._by_fd.values()})
        """What no FD had, by its inode. Most of a full table is pipes and sockets, closed."""

    def free(self, slot_of: dict[Key, int], words: memoryview, free: list[int], most: int) -> int:
        """Take out so many suspects, if they were closed, and free their slots; how many were taken out."""
        suspects, count = self.suspects, 0
        for _ in range(most):
            try:
                key = suspects.pop()
            except IndexError:
                break
            if key[0] == BY_INODE and key[1] in _plain_devices:
                slot = slot_of.pop(key, None)
                if slot is None:
                    continue
            else:
                slot = slot_of.get(key)
                if slot is None or not self._closed(key, slot * SLOT_WORDS):
                    continue
                at = slot * SLOT_WORDS
                # Nothing is called between the seeing that it was not written since and its being taken out.
                if words[at] != self._then[at] or slot_of.pop(key, None) != slot:
                    continue
            # Kind 0 is a free slot.
            words[slot * SLOT_WORDS + KIND_WORD] = 0
            free.append(slot)
            count += 1
        return count

    def _closed(self, key: Key, at: int) -> bool:
        """Whether it was closed then; `at`: the first word of its slot. What cannot be asked counts as open."""
        then = self._then
        kind = then[at + KIND_WORD] & _KIND_MASK if at < len(then) else 0
        if kind == 0:
            return False  # Taken, and not yet written.
        keyed = key[0]
        if keyed == BY_INODE and kind in _PLAIN:
            _plain_devices.add(key[1])
            return True
        if keyed == BY_FD:
            return self._by_fd.get(key[1]) != (then[at + DEVICE_WORD], then[at + INODE_WORD])
        return not _lives(*key) if keyed in (BY_PROCESS, BY_THREAD) else self._unmapped(key)

    def _unmapped(self, key: Key) -> bool:
        """A segment may be mapped and held by no FD."""
        if not self._asked:
            self._asked = True
            self._mapped = _mapped(len(self._by_fd))
        return self._mapped is not None and key not in self._mapped


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
        return quiet.identities(_listed(limit))
    by_fd = quiet.identities(range(limit))
    if len(by_fd) < count:
        raise OSError(EMFILE, "some of what is open lies above the limit, which was lowered")
    return by_fd


def _limit() -> int:
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return soft if soft >= 0 else _MOST_FDS


def _listed(limit: int) -> Iterable[int]:
    """The numbers of what is open. To list them takes one."""
    try:
        return quiet.open_fds()
    except OSError:
        return range(min(limit, _MOST_FDS))  # At the limit, on a kernel that does not count.


def _mapped(open_now: int) -> set[Key] | None:
    """Keys of what is mapped, by inode and by address; None if it cannot be asked now."""
    if _limit() - open_now < _HEADROOM:
        return None
    keys: set[Key] = set()
    try:
        lines = quiet.memory_map()
    except OSError:
        return None
    for line in lines:
        addresses, _, _, device, inode = line.split(None, 5)[:5]
        if inode != b"0":
            major, minor = device.split(b":")
            keys.add((BY_INODE, makedev(int(major, 16), int(minor, 16)), int(inode)))
            keys.add((BY_ADDRESS, int(addresses.split(b"-")[0], 16)))
    return keys
