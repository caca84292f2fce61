"""What one process has noted in a call-site table, ready to be looked up."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

from amidiag.target.trace_layout import (
    BY_ADDRESS,
    BY_FD,
    BY_INODE,
    BY_PROCESS,
    BY_THREAD,
    DEPTH,
    KINDS,
)

Slot = tuple[int, ...]
"""As `trace_layout.SLOT` unpacks it; its items are named below."""
KIND_OF, KEYED_OF, FD_OF, DEVICE_OF, INODE_OF, TIME_OF, SITE_OF, THREAD_OF, EXTRA_OF = range(1, 10)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a call stack. `function` is the qualified name where Python knows it (3.11)."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.function}"


@dataclass(frozen=True, slots=True)
class Made:
    """That a resource was made, and where.

    Attributes:
        kind, keyed, fd, device, inode, extra: as in the slot (trace_layout).
        at: Unix time in seconds. `boottime_ns`: the same on CLOCK_BOOTTIME.
        thread: the native id of the thread that made it, 0 where it is not known.
        stack: innermost frame first, at most 16; empty where the table of call sites was full.
        pid, claimed: of the region, so of the process that made it, by the number that it calls itself.
    """

    kind: str
    keyed: int
    fd: int
    device: int
    inode: int
    at: float
    boottime_ns: int
    thread: int
    extra: int
    stack: tuple[Frame, ...]
    pid: int
    claimed: int


@dataclass(eq=False)
class Region:
    """What one process has noted.

    Attributes:
        pid: its owner, as that calls itself. `claimed`: when it took the region (boot time, ns): whoever
            has this PID and was started before is the owner.
        parent: (PID, claimed) of the region of the process that forked the owner, None if it was not forked
            from a traced one; `parent_site` is the call site of the fork, there.
        slots: what was noted and is not known to be closed. `torn`: slots left out, being written each time.
        swept_at: when closed things were last taken out (boot time, ns), 0 for never.
        off_at: since when tracing is off there, 0 while it is on. The counters: see model.TracedProcess.
        realtime: CLOCK_REALTIME minus CLOCK_BOOTTIME, in ns.
    """

    number: int
    pid: int
    claimed: int
    parent: tuple[int, int] | None
    parent_site: int
    slots: list[Slot]
    torn: int
    no_slot: int
    no_site: int
    errors: int
    swept_at: int
    emfile: int
    emfile_at: int
    off_at: int
    realtime: int
    _frames: Sequence[Frame] = field(repr=False)
    _sites: array[int] = field(repr=False)
    _stacks: dict[int, tuple[Frame, ...]] = field(default_factory=dict, repr=False)
    _made: dict[int, Made] = field(default_factory=dict, repr=False)

    def stack(self, site: int) -> tuple[Frame, ...]:
        """The frames of a call site, innermost first; empty for 0. Each site's is one object."""
        stack = self._stacks.get(site)
        if stack is None:
            numbers = self._sites[(site - 1) * DEPTH : site * DEPTH] if site else ()
            frames = []
            for number in numbers:
                if number == 0:
                    break
                frames.append(self._frames[number - 1])
            stack = self._stacks[site] = tuple(frames)
        return stack

    def made(self, slot: Slot) -> Made:
        """What one of `slots` says. The same object each time."""
        made = self._made.get(id(slot))
        if made is None:
            _, kind, keyed, fd, device, inode, at, site, thread, extra, _ = slot
            made = self._made[id(slot)] = Made(
                KINDS[kind],
                keyed,
                fd,
                device,
                inode,
                (at + self.realtime) / 1e9,
                at,
                thread,
                extra,
                self.stack(site),
                self.pid,
                self.claimed,
            )
        return made

    def forked_by(self, above: Region) -> Made:
        """The start of this region's owner by the fork of `above`'s, which has left its call site here."""
        return Made(
            kind="process",
            keyed=BY_PROCESS,
            fd=-1,
            device=0,
            inode=self.pid,
            at=(self.claimed + self.realtime) / 1e9,
            boottime_ns=self.claimed,
            thread=0,
            extra=0,
            stack=above.stack(self.parent_site),
            pid=above.pid,
            claimed=above.claimed,
        )

    @cached_property
    def by_inode(self) -> dict[tuple[int, int], Slot]:
        """The newest slot of each (device, inode)."""
        found: dict[tuple[int, int], Slot] = {}
        for slot in self.slots:
            if slot[KEYED_OF] == BY_INODE:
                key = slot[DEVICE_OF], slot[INODE_OF]
                known = found.get(key)
                if known is None or known[TIME_OF] <= slot[TIME_OF]:
                    found[key] = slot
        return found

    @cached_property
    def by_fd(self) -> dict[int, list[Slot]]:
        """All slots that were noted under an FD's number, of whatever kind: it names one thing at a time."""
        found: dict[int, list[Slot]] = {}
        for slot in self.slots:
            if slot[FD_OF] >= 0 and slot[KEYED_OF] in (BY_FD, BY_INODE):
                found.setdefault(slot[FD_OF], []).append(slot)
        return found

    @cached_property
    def threads(self) -> dict[int, Slot]:
        """The newest slot of each thread that was started, by its number."""
        slots = [slot for slot in self.slots if slot[KEYED_OF] == BY_THREAD]
        return {slot[INODE_OF]: slot for slot in sorted(slots, key=itemgetter(TIME_OF))}

    @cached_property
    def started(self) -> list[Slot]:
        """The slots of processes that were started."""
        return [slot for slot in self.slots if slot[KEYED_OF] == BY_PROCESS]

    @cached_property
    def at_address(self) -> dict[int, list[Slot]]:
        """All slots of mappings by where they begin."""
        found: dict[int, list[Slot]] = {}
        for slot in self.slots:
            if slot[KEYED_OF] == BY_ADDRESS:
                found.setdefault(slot[EXTRA_OF], []).append(slot)
        return found
