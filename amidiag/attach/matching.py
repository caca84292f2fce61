"""Which record of the call-site tables belongs to what `/proc` shows. What matches nothing was not seen: no guess."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

from amidiag.attach.lineage import Lineage, Source
from amidiag.attach.trace_region import (
    DEVICE_OF,
    EXTRA_OF,
    FD_OF,
    INODE_OF,
    KEYED_OF,
    KIND_OF,
    TIME_OF,
    Made,
    Region,
    Slot,
)
from amidiag.attach.traced_process import Member
from amidiag.procfs.errors import ReaderExhausted, explain
from amidiag.procfs.fdinfo import number_in, read_fdinfo
from amidiag.procfs.open_files import OpenFile
from amidiag.procfs.tasks import namespace_tid, thread_start_ticks
from amidiag.procfs.ticks import NS_PER_TICK
from amidiag.target.trace_layout import BY_FD, KIND

# On a disk the inode of what was deleted is soon another file's, so it proves nothing without the FD. The
# numbers of pipes, sockets and memory do not come again.
_INODE_IS_REUSED = frozenset(
    ("regular", "deleted", "directory", "file", "device", "block_device", "fifo", "symlink")
)
_RECEIVED = KIND["received"]

Key = tuple[int, int]


class Matcher:
    """Finds who made what, over all regions of a family."""

    def __init__(self, lineage: Lineage) -> None:
        self._lineage = lineage

    def of_files(self, member: Member, files: Iterable[OpenFile]) -> list[Made | None]:
        """For each of the member's files where it was made, as far as that was seen."""
        sources = list(self._lineage.sources(member))
        return [self._of_file(member.pid, sources, file) for file in files]

    def _of_file(self, pid: int, sources: Sequence[Source], file: OpenFile) -> Made | None:
        if file.type == "semaphore":
            return _at_address(sources, file.address or 0)
        if file.inode is None or file.device is None:
            return None
        key = file.device, file.inode
        by_inode = file.type not in _INODE_IS_REUSED
        number_says_more = file.fd is not None
        for place, source in enumerate(sources):
            slot = source.region.by_inode.get(key) if by_inode else None
            if slot is None and number_says_more:
                last = _latest(source.region.by_fd.get(file.fd or 0, ()), source.until)
                # An FD names one thing at a time: what was made last under its number rules out all before.
                number_says_more = last is None
                slot = last if last is not None and _is(last, pid, file) else None
            if slot is not None:
                return _came_along(sources[place + 1 :], slot, file) or source.region.made(slot)
        maker = self._makers.get(key) if by_inode else None
        return maker[0].made(maker[1]) if maker else None

    @cached_property
    def _makers(self) -> dict[Key, tuple[Region, Slot]]:
        """Who made each inode, over all regions: it may have come here in ways that nobody watched."""
        makers: dict[Key, tuple[Region, Slot]] = {}
        for region in self._lineage.regions():
            for key, slot in region.by_inode.items():
                known = makers.get(key)
                if known is None or _by_making(slot) < _by_making(known[1]):
                    makers[key] = region, slot
        return makers

    def of_threads(self, member: Member) -> list[Made | None]:
        """For each of the member's threads where it was started."""
        # None outlives an exec or comes along in a fork.
        region = member.own[0] if member.own else None
        return [None if region is None else _of_thread(member, region, tid) for tid in member.threads]

    def of_child(self, child: Member, parent: Member | None) -> tuple[Made | None, Member | None]:
        """Where a process was started, and by which one, if that was seen: else its `parent`."""
        found: tuple[Region, Slot, Member | None] | None = None
        for number in set(child.numbers):
            for region, slot in self._starts.get(number, ()):
                owner = self._lineage.owner(region)
                if _called_by(owner, child) != number or child.started_ns > slot[TIME_OF]:
                    continue
                if found is None or (owner is parent and found[2] is not parent):
                    found = region, slot, owner
        if found is not None:
            return found[0].made(found[1]), found[2] or parent
        return self._of_fork(child), parent

    @cached_property
    def _starts(self) -> dict[int, list[tuple[Region, Slot]]]:
        """Every record of a process that was started, by its number."""
        starts: dict[int, list[tuple[Region, Slot]]] = {}
        for region in self._lineage.regions():
            for slot in region.started:
                starts.setdefault(slot[INODE_OF], []).append((region, slot))
        return starts

    def _of_fork(self, child: Member) -> Made | None:
        """The call site of the fork itself, which the parent has left in the child's region."""
        region = child.own[-1] if child.own else None
        above = self._lineage.parent_region(region) if region else None
        return region.forked_by(above) if region and above else None


def _came_along(ancestors: Iterable[Source], noted: Slot, file: OpenFile) -> Made | None:
    """Where a pipe or socket was made that the process was started with, and has noted itself since.

    It notes such a one as a socket object around the FD; or since the pipe's other end was sent to it, which
    is another FD. Forks and execs keep the number: by that it is known.
    """
    received = noted[KIND_OF] == _RECEIVED and noted[FD_OF] == file.fd
    if file.type not in ("pipe", "socket") or received or file.device is None or file.inode is None:
        return None
    for source in ancestors:
        slot = source.region.by_inode.get((file.device, file.inode))
        if slot is not None and slot[FD_OF] == file.fd and slot[TIME_OF] <= source.until:
            return source.region.made(slot)
    return None


def _latest(slots: Iterable[Slot], until: int) -> Slot | None:
    last: Slot | None = None
    for slot in slots:
        if slot[TIME_OF] <= until and (last is None or last[TIME_OF] <= slot[TIME_OF]):
            last = slot
    return last


def _is(slot: Slot, pid: int, file: OpenFile) -> bool:
    if (slot[DEVICE_OF], slot[INODE_OF]) != (file.device, file.inode):
        return False
    if slot[KEYED_OF] != BY_FD or file.type != "eventfd" or not slot[EXTRA_OF]:
        return True
    # All eventfds have one inode: the kernel's own number tells them apart (fdinfo, since Linux 5.2).
    try:
        told = read_fdinfo(pid, file.fd or 0)
    except OSError as error:
        known = explain(error, pid, None, "an FD")
        if isinstance(known, ReaderExhausted):
            raise known from error
        told = None
    number = number_in(told, b"eventfd-id:")
    return told is not None and number in (None, slot[EXTRA_OF] - 1)


def _at_address(sources: Iterable[Source], address: int) -> Made | None:
    for source in sources:
        if not source.same_memory:
            return None
        slot = _latest(source.region.at_address.get(address, ()), source.until)
        if slot is not None:
            return source.region.made(slot)
    return None


def _of_thread(member: Member, region: Region, tid: int) -> Made | None:
    number = tid if len(member.numbers) == 1 else namespace_tid(member.pid, tid)
    slot = region.threads.get(number) if number is not None else None
    if slot is None:
        return None
    start = thread_start_ticks(member.pid, tid)
    # Else another thread has the number now.
    return region.made(slot) if start is not None and start * NS_PER_TICK <= slot[TIME_OF] else None


def _called_by(owner: Member | None, child: Member) -> int | None:
    """The number of the child in the PID namespace of the process that has noted it."""
    level = len(owner.numbers) if owner else len(child.numbers)
    return child.numbers[level - 1] if level <= len(child.numbers) else None


def _by_making(slot: Slot) -> tuple[bool, int]:
    """Who made it before who received it, and the first before later ones."""
    return slot[KIND_OF] == _RECEIVED, slot[TIME_OF]
