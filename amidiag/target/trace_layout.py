"""The call-site table as bytes: what the tracer writes and `attach` reads.

One file holds a header page and regions. Region 0 belongs to the process that made the file; each
forked child gets a region that its parent has reserved before the fork, since a child at EMFILE can
open nothing. Only the maker of a file hands out its regions; only the owner of a region writes into it,
except for its header while it is reserved.

A region holds its header, slots (one per traced resource), and the interned call sites: sites are lists
of frame numbers, frames are (file, function, line), strings are UTF-8. Sites, frames and strings are
only ever appended, and counted after they are written. A slot carries its sequence number first and
last: where they differ, it was torn. All numbers are native, times CLOCK_BOOTTIME in nanoseconds, which
is what start ticks count too.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import struct

MAGIC = b"AMITRACE"
VERSION = 1
SUFFIX = ".trace"
HEADER_SIZE = 4096

# Words of the file's header (unsigned 64 bit), then its texts.
F_MAGIC, F_VERSION, F_SIZE, F_PID, F_START, F_REGIONS, F_UNTRACED_FORKS, F_REALTIME = range(8)
"""F_SIZE: of the file. F_START: start ticks of the maker. F_REGIONS: how many there are now, region 0
included. F_UNTRACED_FORKS: forks for which no region was left. F_REALTIME: CLOCK_REALTIME minus
CLOCK_BOOTTIME, in nanoseconds, when the file was made."""
F_FIRST_GEOMETRY = 8
F_OTHER_GEOMETRY = 12
BOOT_ID_AT, BOOT_ID_SIZE = 256, 40
PROGRAM_AT, PROGRAM_SIZE = 320, 256
"""PROGRAM: name of the script or module that runs, never its arguments: they may hold secrets."""

# Words of a region's header.
REGION_HEADER_SIZE = 256
(
    R_STATE,
    R_PID,
    R_CLAIMED,
    R_PARENT_PID,
    R_PARENT_SITE,
    R_SLOTS,
    R_SITES,
    R_FRAMES,
    R_STRINGS,
    R_NO_SLOT,
    R_NO_SITE,
    R_ERRORS,
    R_SWEEPS,
    R_SWEPT_AT,
    R_EMFILE,
    R_EMFILE_AT,
    R_OFF_AT,
    R_RESERVED,
    R_PARENT_CLAIMED,
) = range(19)
"""R_STATE: one of the states below. R_PID: the owner; R_CLAIMED: when it took the region: whoever has this
PID and was started before is the same process. R_PARENT_SITE: call site of the fork, in the region of the
process (R_PARENT_PID, R_PARENT_CLAIMED). R_SLOTS: slots ever used, R_SITES, R_FRAMES: how many there are;
R_STRINGS: bytes used. R_NO_SLOT, R_NO_SITE: resources that were not recorded, or without their call site,
because the table was full. R_ERRORS: errors swallowed in hooks. R_SWEEPS, R_SWEPT_AT: slots of what was
closed have been freed so often, last then. R_EMFILE, R_EMFILE_AT: creations that failed for want of FDs,
the last then. R_OFF_AT: since when tracing is off, 0 while it is on. R_RESERVED: when it was reserved."""

STATE_FREE, STATE_RESERVED, STATE_ACTIVE = 0, 1, 2

SLOT = struct.Struct("@QHHiQQQIIQQ")
"""sequence, kind, keyed, fd, device, inode, time, site, thread, extra, sequence again.

`site` 0 means that the table of sites was full. `extra`: the address of a semaphore; or the `eventfd-id` of
fdinfo plus 1, 0 where it was not read.
"""
SLOT_SIZE = SLOT.size

KINDS = (
    "",
    "pipe",
    "socket",
    "memfd",
    "eventfd",
    "file",
    "terminal",
    "shm",
    "storage",
    "received",
    "thread",
    "process",
    "semaphore",
    "pidfd",
    "timerfd",
)
"""How a resource was made, by its number in a slot; 0 is a free slot."""
KIND = {name: number for number, name in enumerate(KINDS)}

BY_INODE, BY_FD, BY_THREAD, BY_PROCESS, BY_ADDRESS = range(1, 6)
"""What a slot's resource is recognised by: (device, inode), wherever it is held or mapped; or FD, device
and inode together, where many descriptors share an inode; or a thread's or a process's number in `inode`,
started no later than `time`; or the address in `extra` of a mapping of /dev/shm/sem.*."""

DEPTH = 16
SITE = struct.Struct(f"@{DEPTH}I")
"""Frame numbers, innermost first; frames count from 1, 0 ends the list. Sites count from 1 too."""
FRAME = struct.Struct("@IIII")
"""Offsets of file and function among the strings, line, 0."""
STRING = struct.Struct("@H")
"""The length in bytes, before the UTF-8 of each string."""


class Geometry:
    """How much a region holds, and where. Four words in the file's header describe it."""

    __slots__ = (
        "frames",
        "frames_at",
        "sites",
        "sites_at",
        "size",
        "slots",
        "slots_at",
        "strings",
        "strings_at",
    )

    def __init__(self, slots: int, sites: int, frames: int, strings: int) -> None:
        """Numbers of slots, sites and frames; bytes of strings. All of them fixed for the file's life."""
        self.slots = slots
        self.sites = sites
        self.frames = frames
        self.strings = strings
        self.slots_at = REGION_HEADER_SIZE
        self.sites_at = self.slots_at + slots * SLOT_SIZE
        self.frames_at = self.sites_at + sites * SITE.size
        self.strings_at = self.frames_at + frames * FRAME.size
        # Whole pages, so that each region begins at one.
        self.size = -(-(self.strings_at + strings) // 4096) * 4096

    def words(self) -> tuple[int, int, int, int]:
        """As they stand in the file's header."""
        return self.slots, self.sites, self.frames, self.strings


def region_at(number: int, first: Geometry, other: Geometry) -> int:
    """Offset in the file of region `number`: 0 is the maker's, the others its forked children's."""
    return HEADER_SIZE if number == 0 else HEADER_SIZE + first.size + (number - 1) * other.size
