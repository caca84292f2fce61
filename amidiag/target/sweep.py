"""Which of the resources that were noted are closed by now, asked of the kernel from inside the program.

So no close needs to be watched. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

from errno import EMFILE
from os import makedev
from posix import kill, stat
from resource import RLIMIT_NOFILE, getrlimit

from . import quiet
from .blame import is_ours, raised_by_call
from .trace_layout import BY_ADDRESS, BY_FD, BY_INODE, BY_PROCESS, BY_THREAD, KIND, SLOT_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# FDs to leave free for the program: closer to its limit than this, no descriptor is opened, not even for a moment.
_HEADROOM = 64
_MOST_FDS = 1 << 20
_PLAIN = (KIND["pipe"], KIND["socket"], KIND["memfd"])
_NEVER_MAPPED = frozenset((KIND["pipe"], KIND["socket"]))

# A slot in words of 8 bytes (trace_layout.SLOT): the second holds kind, keyed and FD.
SLOT_WORDS = SLOT_SIZE // 8
KIND_WORD, DEVICE_WORD, INODE_WORD = 1, 2, 3
_KIND_MASK = 0xFFFF

Key = tuple[int, ...]


# Devices of pipes, sockets and memfds, whose inodes do not come again once they are closed. Learnt on the way.
_plain_devices: set[int] = set()


class Look:
    """What there was at one moment; what has been noted since is not its business.

    Keys are those of `Region`. Raises OSError where there is no `/proc` (a program may have changed its
    root), where not all can be seen, or where there is no FD to look with.
    """

    def __init__(self, noted: list[Key], words: memoryview, *, mapped: bool) -> None:
        """`noted`: all that is. `words`: the slots in use. `mapped`: some may be of what is mapped."""
        # How it was written, before it is asked what there is.
        self._then = memoryview(bytes(words)).cast("Q")
        # Close to the limit threads and mappings are not asked for: that takes an FD.
        near = _near_the_limit()
        self._by_fd = _files_at_the_limit() if near else quiet.identities(_listed())
        there: set[Key] = {(BY_INODE, device, inode) for device, inode in self._by_fd.values()}
        if not near:
            there.update((BY_THREAD, number) for number in quiet.numbers("/proc/self/task"))
            if mapped:
                there |= _mapped()
        self._never_mapped = _NEVER_MAPPED if near else frozenset(KIND.values())
        self._plain_devices = set() if near else _plain_devices
        self.suspects = [key for key in noted if key not in there]
        """What was not seen by its inode, or where it was mapped; and files and processes, not asked for yet."""

    def free(self, slot_of: dict[Key, int], words: memoryview, free: list[int], most: int) -> int:
        """Take out so many suspects, if they were closed, and free their slots; how many were taken out."""
        suspects, plain_devices, count = self.suspects, self._plain_devices, 0
        for _ in range(most):
            # Nothing is called between the asking and the taking.
            if not suspects:
                break
            key = suspects.pop()
            if key[0] == BY_INODE and key[1] in plain_devices:
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
        """Whether it was closed then; `at`: the first word of its slot."""
        then = self._then
        kind = then[at + KIND_WORD] & _KIND_MASK if at < len(then) else 0
        if kind == 0:
            return False  # Taken, and not yet written.
        keyed = key[0]
        if keyed == BY_FD:
            return self._by_fd.get(key[1]) != (then[at + DEVICE_WORD], then[at + INODE_WORD])
        if keyed == BY_PROCESS:
            return not alive(key[1])
        if kind not in self._never_mapped:
            return False
        if keyed == BY_INODE and kind in _PLAIN:
            self._plain_devices.add(key[1])
        return True


def alive(pid: int) -> bool:
    """Whether there is such a process. One that nobody has waited for is."""
    try:
        kill(pid, 0)
    except OSError as error:
        if not raised_by_call(error):
            raise
        # Else it lives, as somebody else.
        return not isinstance(error, ProcessLookupError)
    return True


def _limit() -> int:
    soft = getrlimit(RLIMIT_NOFILE)[0]
    return soft if soft >= 0 else _MOST_FDS


def _count() -> int:
    """How many FDs are open, since Linux 6.2; 0 before."""
    return stat("/proc/self/fd").st_size


def _near_the_limit() -> bool:
    return _limit() - _count() < _HEADROOM


def _files_at_the_limit() -> dict[int, tuple[int, int]]:
    count = _count()
    by_fd = quiet.identities(range(_limit()))
    if len(by_fd) < count:
        raise OSError(EMFILE, "some of what is open lies above the limit, which was lowered")
    return by_fd


def _listed() -> Iterable[int]:
    """The numbers of what is open. To list them takes one."""
    try:
        return quiet.numbers("/proc/self/fd")
    except OSError as error:
        if not is_ours(error):
            raise
        return range(min(_limit(), _MOST_FDS))  # At the limit, on a kernel that does not count.


def _mapped() -> set[Key]:
    """Keys of what is mapped, by inode and, of semaphores, by address."""
    keys: set[Key] = set()
    devices: dict[bytes, int] = {}
    for line in quiet.memory_map():
        fields = line.split(None, 5)
        device, inode = fields[3:5]
        if inode == b"0":
            continue
        number = devices.get(device)
        if number is None:
            major, minor = device.split(b":")
            number = devices[device] = makedev(int(major, 16), int(minor, 16))
        keys.add((BY_INODE, number, int(inode)))
        if b"/sem." in line:
            keys.add((BY_ADDRESS, int(fields[0].split(b"-")[0], 16)))
    return keys
