"""The memory of the worker with its loader processes at which it counts as used up."""

from __future__ import annotations

import os
import time

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.memory import read_status
from worker.guard.budget import memory_left
from worker.guard.family import Family
from worker.guard.usage import own_usage
from worker.guard.words import size_in_words
from worker.settings import WorkerSettings

# The first look adds up what one line per process says, 30 µs each; the second goes over maps and FDs, 5 ms.
_LOOK_EVERY_S = 0.5
# What no first look sees, a memfd that nobody maps, is seen by then.
_ANYHOW_AFTER_S = 30.0


class MemoryCap:
    """A size, or a share of what cgroup and host leave at the start, as the memory budget is; none for 0."""

    def __init__(self, settings: WorkerSettings, family: Family) -> None:
        self._family = family
        self._first_look, self._second_look = float("-inf"), float("-inf")
        self.bytes: int | None = settings.max_memory_bytes or None
        self.why = f"{size_in_words(self.bytes)} of memory" if self.bytes else ""
        share = settings.max_memory_share
        left = memory_left() if share else None
        if share and left is not None:
            self.bytes = int(share * left.bytes)
            self.why = f"{size_in_words(self.bytes)} of memory ({share:.0%} of the {left})"

    def passed(self) -> str | None:
        """`3.2 GiB of at most 3 GiB of memory`; None where the cap is not passed, or was looked at just now."""
        now = time.monotonic()
        if not self.bytes or now - self._first_look < _LOOK_EVERY_S:
            return None
        self._first_look = now
        if now - self._second_look < _ANYHOW_AFTER_S and self._at_most() < self.bytes:
            return None
        self._second_look = now
        usage = own_usage(os.getpid())
        if usage is None or usage.total < self.bytes:
            return None
        return f"{size_in_words(usage.total)} of at most {self.why}"

    def _at_most(self) -> int:
        """An upper bound, in bytes: shared memory that several map counts for each, and all that /dev/shm holds."""
        total = _shm_used()
        for pid in (os.getpid(), *(member.identity.pid for member in self._family.members())):
            try:
                memory = read_status(pid).memory
            except CannotObserve:
                continue
            total += (memory.anonymous or memory.rss or 0) + (memory.shmem or 0)
        return total


def _shm_used() -> int:
    try:
        answer = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return (answer.f_blocks - answer.f_bfree) * answer.f_frsize
