"""One process's part of the call-site table, as it is written.

No lock is held while a resource is noted: what must be one step is one step of the interpreter (an entry
of a dict, an item of a list, one `pack_into`). So a fork, a signal handler or a finalizer that comes
between finds nothing locked. And within a line that calls nothing the interpreter changes no thread and
handles no signal. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import itertools
from _thread import _local, get_native_id
from time import CLOCK_BOOTTIME, clock_gettime_ns

from . import sweep
from .blame import is_ours, raised_by_call
from .call_sites import CallSites
from .sweep import SLOT_WORDS, Key
from .trace_layout import (
    BY_ADDRESS,
    BY_FD,
    BY_INODE,
    R_CLAIMED,
    R_EMFILE,
    R_EMFILE_AT,
    R_NO_SLOT,
    R_OFF_AT,
    R_PID,
    R_SLOTS,
    R_STATE,
    R_SWEEPS,
    R_SWEPT_AT,
    REGION_HEADER_SIZE,
    SLOT,
    SLOT_SIZE,
    STATE_ACTIVE,
    Geometry,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# How many slots are in use is said so many at a time.
_BLOCK = 256
# A sweep comes after so many creations at least, and so many at most; between, as many as make a look around
# cost so many nanoseconds each. Few are better: what is in the processor's cache is not waited for.
_LEAST, _MOST, _NS_EACH = 1024, 8192, 200
# Of what is closed so many are freed at once.
_AT_ONCE = 32
# Nanoseconds between two sweeps of a table that is almost full of what is open, and of a process at EMFILE.
_CROWDED_PAUSE = 1_000_000_000
_EMFILE_PAUSE = 60_000_000_000
_pack = SLOT.pack_into


def boottime() -> int:
    """CLOCK_BOOTTIME in nanoseconds: the clock that start ticks count."""
    return clock_gettime_ns(CLOCK_BOOTTIME)


class Region:
    """Where this process notes what it makes, and from where. Made by the process that owns it."""

    def __init__(self, memory: memoryview, at: int, geometry: Geometry) -> None:
        self._memory = memory
        self.words = memory[at : at + REGION_HEADER_SIZE].cast("Q")
        self._slots_at = at + geometry.slots_at
        self._slot_words = memory[self._slots_at : at + geometry.sites_at].cast("Q")
        self._capacity = geometry.slots
        self._sites = CallSites(memory, at, geometry, self.words)
        self.site = self._sites.number
        self._slot_of: dict[Key, int] = {}
        self._free: list[int] = []
        self._fresh = itertools.count()
        self._sequence = itertools.count(1)
        self._threads = _local()
        self._sweeping: object = None
        self._sweep_at = min(_LEAST, self._capacity)
        # The last look around, while it is not used up; and how many of that time are there still.
        self._look: sweep.Look | None = None
        self._looked_at = 0
        self._kept = 0
        self._pause = _LEAST
        self.mapped = False
        """Whether any that was noted may be mapped and held by no FD: then a sweep asks for the mappings too."""

    def claim(self, pid: int) -> None:
        """Begin: from now on this is the region of the process `pid`, which calls this itself."""
        self.words[R_PID] = pid
        self.words[R_CLAIMED] = boottime()
        self.words[R_STATE] = STATE_ACTIVE

    @property
    def claimed(self) -> int:
        """When its process took it, boot time in nanoseconds: with the PID that is who it belongs to."""
        return self.words[R_CLAIMED]

    @property
    def emfile(self) -> int:
        """How many creations failed for want of FDs."""
        return self.words[R_EMFILE]

    def knows(self, device: int, inode: int) -> bool:
        """Whether there is a record of what this inode names."""
        return (BY_INODE, device, inode) in self._slot_of

    def note_inode(self, kind: int, fd: int, device: int, inode: int, frame: FrameType) -> None:
        """Keep where a resource was made that its inode names: a socket, a pidfd."""
        self.note((BY_INODE, device, inode), kind, fd, device, inode, frame)

    def note_mapped(self, kind: int, fd: int, device: int, inode: int, frame: FrameType) -> None:
        """The same of what may be mapped and held by no FD: a piece of shared memory, and who knows what."""
        self.mapped = True
        self.note((BY_INODE, device, inode), kind, fd, device, inode, frame)

    def note_fd(self, kind: int, fd: int, device: int, inode: int, frame: FrameType) -> None:
        """Keep where one was opened that its FD names too, since others share its inode."""
        # An FD names one thing at a time, so what is opened under it later takes over its slot.
        self.note((BY_FD, fd), kind, fd, device, inode, frame)

    def note_number(self, keyed: int, kind: int, number: int, frame: FrameType) -> None:
        """Keep where a thread or process was started, or where the semaphore at an address was made."""
        self.mapped = self.mapped or keyed == BY_ADDRESS
        self.note((keyed, number), kind, -1, 0, number, frame, number if keyed == BY_ADDRESS else 0)

    def note(
        self, key: Key, kind: int, fd: int, device: int, inode: int, frame: FrameType, extra: int = 0
    ) -> None:
        """Write down where a resource was made. `key`: (keyed, what names it); see trace_layout."""
        site = self.site(frame)
        sequence = next(self._sequence)
        try:
            thread = self._threads.number
        except AttributeError:
            thread = self._threads.number = get_native_id()
        slot_of = self._slot_of
        if len(slot_of) >= self._sweep_at:
            self._sweep()
        # Nothing is called between the asking and the taking.
        slot = self._free.pop() if self._free else self._more()
        now = clock_gettime_ns(CLOCK_BOOTTIME)
        if slot >= 0 and slot_of.setdefault(key, slot) == slot:
            at = self._slots_at + slot * SLOT_SIZE
            _pack(
                self._memory,
                at,
                sequence,
                kind,
                key[0],
                fd,
                device,
                inode,
                now,
                site,
                thread,
                extra,
                sequence,
            )
            return
        record = (sequence, kind, key[0], fd, device, inode, now, site, thread, extra, sequence)
        if slot >= 0:
            self._free.append(slot)
        if self._rewrite(key, record):
            return
        if slot < 0:
            self.words[R_NO_SLOT] += 1
        else:
            # A sweep in another thread has just taken it out.
            self.note(key, kind, fd, device, inode, frame, extra)

    def _rewrite(self, key: Key, record: tuple[int, ...]) -> bool:
        """In the place of what is known by this key, such as an FD that was opened before; False if nothing is."""
        while True:
            slot = self._slot_of.get(key)
            if slot is None:
                return False
            arguments: tuple[Any, ...] = (self._memory, self._slots_at + slot * SLOT_SIZE, *record)
            try:
                # Nothing is called between: so no sweep takes it out, and nobody else gets the slot.
                if self._slot_of[key] == slot:
                    _pack(*arguments)
                    return True
            except KeyError as error:
                if not raised_by_call(error):
                    raise

    def failed_for_want_of_fds(self) -> None:
        """Keep that a creation failed with EMFILE or ENFILE, and for the post-mortem what is open now."""
        now = boottime()
        self.words[R_EMFILE] += 1
        self.words[R_EMFILE_AT] = now
        if now - self._looked_at > _EMFILE_PAUSE:
            self._use_up()
            self._sweep()
            self._use_up()

    def off(self) -> None:
        """Say that nothing will be noted from now on."""
        self.words[R_OFF_AT] = boottime()

    def _more(self) -> int:
        """A slot when none is free at hand; -1 if there is none."""
        slot = self._freed()
        if slot >= 0:
            return slot
        slot = next(self._fresh)
        if slot >= self._capacity:
            return -1
        # The reader looks only at slots that are in use: say so before this one is written.
        used = min((slot // _BLOCK + 1) * _BLOCK, self._capacity)
        if self.words[R_SLOTS] < used:  # noqa: PLR1730 - to call max lets another thread in
            self.words[R_SLOTS] = used
        return slot

    def _sweep(self) -> None:
        """Look what is open now. Opens at most one descriptor, and none close to the limit."""
        if self._look is not None:
            return  # Of the last one there is something left to do.
        if 4 * self._kept > 3 * self._capacity and boottime() - self._looked_at < _CROWDED_PAUSE:
            return
        me = object()
        try:
            holder = self._sweeping = self._sweeping or me
            if holder is me:
                self._look_around()
        finally:
            self._sweeping = None if self._sweeping is me else self._sweeping

    def _look_around(self) -> None:
        self._kept = len(self._slot_of)
        self._looked_at = boottime()
        try:
            noted = list(self._slot_of)
            words = self._slot_words[: self.words[R_SLOTS] * SLOT_WORDS]
            self._look = sweep.Look(noted, words, mapped=self.mapped)
        except OSError as error:
            if not is_ours(error):
                raise
            # It cannot be asked now: see there.
            self._sweep_at = self._next_sweep()
        self._pause = min(max((boottime() - self._looked_at) // _NS_EACH, _LEAST), _MOST)

    def _next_sweep(self) -> int:
        return min(self._capacity, self._kept + max(self._kept, self._pause))

    def _freed(self) -> int:
        """A slot of what the last look around has found closed, -1 if there is none.

        Each time some are freed, by whichever thread makes something: so none has to do it all, and what is
        made cannot outrun it.
        """
        while self._look is not None:
            self._free_some(self._look)
            if self._free:
                return self._free.pop()
        return -1

    def _use_up(self) -> None:
        while self._look is not None:
            self._free_some(self._look)

    def _free_some(self, look: sweep.Look) -> None:
        count = look.free(self._slot_of, self._slot_words, self._free, _AT_ONCE)
        self._kept -= count
        if not look.suspects and self._look is look:
            self._look = None
            self._sweep_at = self._next_sweep()
            self.words[R_SWEEPS] += 1
            self.words[R_SWEPT_AT] = self._looked_at
