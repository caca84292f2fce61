"""What one process has made since a moment and still holds: the call sites behind growth."""

from __future__ import annotations

import time
from dataclasses import replace

from amidiag.attach.call_sites import NotTraced, TraceReading, read_trace
from amidiag.model import Identity
from amidiag.procfs.errors import NoPermission, ProcessGone


def now() -> int:
    """The clock of the call-site table: CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def grown(identity: Identity, since: int) -> TraceReading | None:
    """The trace of one process, without what was there at `since` (as `now` gives it).

    None where it is not traced, has ended meanwhile, or may not be read.
    """
    try:
        reading = read_trace(identity)
    except (NotTraced, NoPermission, ProcessGone):
        return None
    return made_since(reading, since)


def made_since(reading: TraceReading, since: int) -> TraceReading:
    """The same without what was made before `since`, or was not seen being made."""
    return replace(reading, opened=tuple(o for o in reading.opened if o.made and o.made.boottime_ns >= since))
