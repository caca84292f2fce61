"""One region of a call-site table as it was at one moment, although its owner goes on writing."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress
from operator import itemgetter, ne

from amidiag.attach.trace_source import TableFile, printable
from amidiag.target.trace_layout import (
    BY_ADDRESS,
    BY_FD,
    BY_INODE,
    BY_PROCESS,
    BY_THREAD,
    DEPTH,
    FRAME,
    KINDS,
    R_CLAIMED,
    R_EMFILE,
    R_EMFILE_AT,
    R_ERRORS,
    R_FRAMES,
    R_NO_SITE,
    R_NO_SLOT,
    R_OFF_AT,
    R_PARENT_CLAIMED,
    R_PARENT_PID,
    R_PARENT_SITE,
    R_PID,
    R_SITES,
    R_SLOTS,
    R_STATE,
    R_STRINGS,
    R_SWEPT_AT,
    SITE,
    SLOT,
    SLOT_SIZE,
    STATE_ACTIVE,
    STRING,
    Geometry,
)

_TRIES = 5
_PAUSE_S = 0.0005
_KEYED = frozenset((BY_INODE, BY_FD, BY_THREAD, BY_PROCESS, BY_ADDRESS))

Slot = tuple[int, ...]
"""As `trace_layout.SLOT` unpacks it; its items are named below."""
KIND_OF, KEYED_OF, FD_OF, DEVICE_OF, INODE_OF, TIME_OF, SITE_OF, THREAD_OF, EXTRA_OF = range(1, 10)
_SEQUENCE, _SEQUENCE_AGAIN = 0, 10


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


def read_region(file: TableFile, number: int, realtime: int | None = None) -> Region | None:
    """A region that a process has; None for one that waits for its owner, or changed hands at every reading.

    `realtime`: CLOCK_REALTIME minus CLOCK_BOOTTIME if that of the file's making is not to be used.
    Raises BadTableError, OSError.
    """
    at, geometry = file.header.place(number)
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_S * attempt)
        before = _checked(file, number, geometry)
        if before[R_STATE] != STATE_ACTIVE:
            return None
        rows, torn = settle(partial(file.read, at + geometry.slots_at, before[R_SLOTS] * SLOT_SIZE))
        # After the slots: their sites have been counted before they were written.
        words = _checked(file, number, geometry)
        raw = (
            file.read(at + geometry.sites_at, words[R_SITES] * SITE.size),
            file.read(at + geometry.frames_at, words[R_FRAMES] * FRAME.size),
            file.read(at + geometry.strings_at, words[R_STRINGS]),
        )
        # Only what has one owner from first to last makes sense.
        if _owner(before) == _owner(words) == _owner(_checked(file, number, geometry)):
            _check_slots(file, rows, words[R_SITES])
            shift = file.header.realtime if realtime is None else realtime
            return _region(
                number, words, rows, torn, shift, _sites(file, raw[0], words), _frames(file, *raw[1:])
            )
    return None


def _owner(words: tuple[int, ...]) -> tuple[int, ...]:
    return words[R_STATE], words[R_PID], words[R_CLAIMED]


def _region(
    number: int,
    words: tuple[int, ...],
    rows: list[Slot],
    torn: int,
    realtime: int,
    sites: array[int],
    frames: Sequence[Frame],
) -> Region:
    return Region(
        number=number,
        pid=words[R_PID],
        claimed=words[R_CLAIMED],
        parent=(words[R_PARENT_PID], words[R_PARENT_CLAIMED]) if words[R_PARENT_PID] else None,
        parent_site=words[R_PARENT_SITE],
        slots=rows,
        torn=torn,
        no_slot=words[R_NO_SLOT],
        no_site=words[R_NO_SITE],
        errors=words[R_ERRORS],
        swept_at=words[R_SWEPT_AT],
        emfile=words[R_EMFILE],
        emfile_at=words[R_EMFILE_AT],
        off_at=words[R_OFF_AT],
        realtime=realtime,
        _frames=frames,
        _sites=sites,
    )


def _checked(file: TableFile, number: int, geometry: Geometry) -> tuple[int, ...]:
    words = file.region_words(number)
    used = words[R_SLOTS], words[R_SITES], words[R_FRAMES], words[R_STRINGS]
    if any(count > room for count, room in zip(used, geometry.words(), strict=True)):
        raise file.damaged(f"region {number} holds more than it has room for")
    return words


def settle(read: Callable[[], bytes]) -> tuple[list[Slot], int]:
    """The slots in use, each as it stood at two readings in a row, and how many never stood still.

    One sequence number at both ends is not enough: a reader that follows right behind a writer may see
    both anew and what is between them from before.
    """
    before, now = read(), read()
    rows = list(SLOT.iter_unpack(now))
    moving = {i for i, row in enumerate(rows) if row[_SEQUENCE] != row[_SEQUENCE_AGAIN]}
    if before != now:
        moving.update(compress(range(len(rows)), map(ne, SLOT.iter_unpack(before), rows)))
    for attempt in range(_TRIES):
        if not moving:
            break
        time.sleep(_PAUSE_S * attempt)
        earlier, rows_now = rows, list(SLOT.iter_unpack(read()))
        rows = [rows_now[i] if i in moving else row for i, row in enumerate(earlier)]
        moving = {
            i
            for i in moving
            if not (rows[i] == earlier[i] and rows[i][_SEQUENCE] == rows[i][_SEQUENCE_AGAIN])
        }
    return [row for i, row in enumerate(rows) if row[KIND_OF] and i not in moving], len(moving)


def _check_slots(file: TableFile, rows: list[Slot], sites: int) -> None:
    for row in rows:
        if row[SITE_OF] > sites or row[KIND_OF] >= len(KINDS) or row[KEYED_OF] not in _KEYED:
            raise file.damaged("a slot in it is none")


def _sites(file: TableFile, raw: bytes, words: tuple[int, ...]) -> array[int]:
    sites = array("I", raw)
    if sites and max(sites) > words[R_FRAMES]:
        raise file.damaged("a call site in it leads to no frame")
    return sites


def _frames(file: TableFile, raw: bytes, texts: bytes) -> list[Frame]:
    strings = _Strings(texts)
    try:
        return [Frame(strings.at(f), line, strings.at(n)) for f, n, line, _ in FRAME.iter_unpack(raw)]
    except IndexError as e:
        raise file.damaged("a frame in it has no name") from e


class _Strings:
    """The texts of a region by their offset."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._known: dict[int, str] = {}

    def at(self, offset: int) -> str:
        """Raises IndexError where there is none."""
        text = self._known.get(offset)
        if text is None:
            begin = offset + STRING.size
            if begin > len(self._raw):
                raise IndexError(offset)
            end = begin + STRING.unpack_from(self._raw, offset)[0]
            if end > len(self._raw):
                raise IndexError(offset)
            text = self._known[offset] = printable(self._raw[begin:end])
        return text
