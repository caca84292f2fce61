"""One process's part of the call-site table, as it is written.

No lock is held while a resource is noted: what must be one step is one step of the interpreter (an entry
of a dict, an item of a list, one `pack_into`). So a fork, a signal handler or a finalizer that comes
between finds nothing locked. Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import itertools
import mmap
import time
from _thread import allocate_lock, get_native_id
from types import FrameType

from . import sweep
from .call_sites import CallSites
from .trace_layout import (
    BY_ADDRESS,
    BY_FD,
    BY_INODE,
    R_CLAIMED,
    R_EMFILE,
    R_EMFILE_AT,
    R_ERRORS,
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

Key = tuple[int, ...]

# Slots are handed out so many at a time; sweeps wait until so many are used, then until twice what was open.
_BLOCK = 256
_FIRST_SWEEP = 4096
# Nanoseconds between two sweeps of a table that is full of what is open, and of a process at EMFILE.
_FULL_PAUSE = 1_000_000_000
_EMFILE_PAUSE = 60_000_000_000
_SPINS = 200
# A slot in words of 8 bytes: the second begins with the kind, the fifth is the time.
_SLOT_WORDS, _KIND_WORD, _TIME_WORD = SLOT_SIZE // 8, 1, 4


def boottime() -> int:
    """CLOCK_BOOTTIME in nanoseconds: the clock that start ticks count."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Region:
    """Where this process notes what it makes, and from where. Made by the process that owns it."""

    def __init__(self, memory: mmap.mmap, at: int, geometry: Geometry) -> None:
        self._memory = memory
        self.words = memoryview(memory)[at : at + REGION_HEADER_SIZE].cast("Q")
        self._slots_at = at + geometry.slots_at
        self._slot_words = memoryview(memory)[self._slots_at : at + geometry.sites_at].cast("Q")
        self._capacity = geometry.slots
        self._sites = CallSites(memory, at, geometry, self.words)
        self._slot_of: dict[Key, int] = {}
        self._free: list[int] = []
        self._used = 0
        self._sequence = itertools.count(1)
        self._growing = allocate_lock()
        self._sweeping = allocate_lock()
        self._sweep_at = _FIRST_SWEEP

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

    def site(self, frame: FrameType | None) -> int:
        """The number of the call site that `frame` and its callers are; 0 if there is no room for it."""
        return self._sites.number(frame)

    def note(
        self,
        kind: int,
        keyed: int,
        fd: int,
        device: int,
        inode: int,
        frame: FrameType | None,
        extra: int = 0,
        *,
        first_wins: bool = False,
    ) -> None:
        """Keep that a resource was made, and where. What `keyed` means: see trace_layout.

        With `first_wins` what is known already stays, as for a socket object around a known descriptor.
        """
        if keyed == BY_INODE:
            key: Key = (keyed, device, inode)
        else:
            # An FD names one thing at a time, so what is opened under it later takes over its slot.
            key = (keyed, fd if keyed == BY_FD else extra if keyed == BY_ADDRESS else inode)
        slot = self._slot_of.get(key)
        if slot is None:
            slot = self._take(key)
            if slot is None:
                self.words[R_NO_SLOT] += 1
                return
        elif first_wins:
            return
        site = self._sites.number(frame)
        sequence = next(self._sequence)
        SLOT.pack_into(
            self._memory,
            self._slots_at + slot * SLOT_SIZE,
            sequence,
            kind,
            keyed,
            fd,
            device,
            inode,
            boottime(),
            site,
            get_native_id(),
            extra,
            sequence,
        )

    def failed_for_want_of_fds(self) -> None:
        """Keep that a creation failed with EMFILE or ENFILE, and for the post-mortem what is open now."""
        now = boottime()
        self.words[R_EMFILE] += 1
        self.words[R_EMFILE_AT] = now
        if now - self.words[R_SWEPT_AT] > _EMFILE_PAUSE:
            self._sweep()

    def swallowed(self) -> None:
        """Count an error of ours."""
        self.words[R_ERRORS] += 1

    def off(self) -> None:
        """Say that nothing will be noted from now on."""
        self.words[R_OFF_AT] = boottime()

    def _take(self, key: Key) -> int | None:
        """A free slot for `key`, or None."""
        if len(self._slot_of) >= self._sweep_at:
            self._sweep()
        for _ in range(_SPINS):
            try:
                slot = self._free.pop()
            except IndexError:
                if not self._grow():
                    return None
                continue
            self._slot_of[key] = slot
            return slot
        return None

    def _grow(self) -> bool:
        """Put more slots into use; True if it is worth trying again."""
        if not self._growing.acquire(False):
            time.sleep(0)
            return True
        try:
            block = range(self._used, min(self._used + _BLOCK, self._capacity))
            self._used = block.stop
            # The reader looks only at slots that are in use: say so before the first of them is written.
            self.words[R_SLOTS] = self._used
            self._free.extend(reversed(block))
            return len(block) > 0
        finally:
            self._growing.release()

    def _sweep(self) -> None:
        """Free the slots of what is closed. Opens at most one descriptor, and none close to the limit."""
        began = boottime()
        full = self._sweep_at >= self._capacity
        if full and began - self.words[R_SWEPT_AT] < _FULL_PAUSE:
            return
        if not self._sweeping.acquire(False):
            return
        try:
            for key, slot in sweep.closed(list(self._slot_of.items()), self._record):
                self._release(key, slot, began)
            self.words[R_SWEEPS] += 1
            self.words[R_SWEPT_AT] = boottime()
            self._sweep_at = min(self._capacity, max(_FIRST_SWEEP, 2 * len(self._slot_of)))
        finally:
            self._sweeping.release()

    def _record(self, slot: int) -> tuple[int, ...]:
        return SLOT.unpack_from(self._memory, self._slots_at + slot * SLOT_SIZE)

    def _release(self, key: Key, slot: int, began: int) -> None:
        # Noted anew since the sweep began, or just taken and not yet written: then it is not ours to free.
        words, at = self._slot_words, slot * _SLOT_WORDS
        taken = words[at + _KIND_WORD] & 0xFFFF == 0
        if taken or words[at + _TIME_WORD] >= began or self._slot_of.get(key) != slot:
            return
        self._slot_of.pop(key, None)
        # Kind 0 is a free slot.
        words[at + _KIND_WORD] = 0
        self._free.append(slot)
