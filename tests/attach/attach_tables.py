"""Writes call-site tables byte by byte, as `trace_layout` says: right ones, damaged ones and torn ones."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from amidiag.procfs.identity import boot_id
from amidiag.target import trace_layout as layout
from amidiag.target.trace_layout import KIND, Geometry, region_at

SMALL = Geometry(slots=64, sites=16, frames=32, strings=4096)
Stack = Sequence[tuple[str, str, int]]
"""(file, function, line), innermost first."""


def boottime() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class TableWriter:
    """A table in memory. `save` puts it into a file; `words` and `data` may be spoilt before."""

    def __init__(
        self,
        pid: int,
        start_ticks: int,
        *,
        regions: int = 1,
        first: Geometry = SMALL,
        other: Geometry = SMALL,
        program: bytes = b"program.py",
        boot: str | None = None,
    ) -> None:
        self.first, self.other = first, other
        self.data = bytearray(region_at(regions, first, other))
        self.data[:8] = layout.MAGIC
        for word, value in (
            (layout.F_VERSION, layout.VERSION),
            (layout.F_SIZE, len(self.data)),
            (layout.F_PID, pid),
            (layout.F_START, start_ticks),
            (layout.F_REGIONS, regions),
            (layout.F_REALTIME, (time.time_ns() - boottime()) % 2**64),
        ):
            self.word(word, value)
        for at, geometry in ((layout.F_FIRST_GEOMETRY, first), (layout.F_OTHER_GEOMETRY, other)):
            for i, number in enumerate(geometry.words()):
                self.word(at + i, number)
        boot_bytes = (boot or boot_id()).encode()
        self.data[layout.BOOT_ID_AT : layout.BOOT_ID_AT + len(boot_bytes)] = boot_bytes
        self.data[layout.PROGRAM_AT : layout.PROGRAM_AT + len(program)] = program
        self._frames: dict[tuple[int, tuple[bytes, bytes, int]], int] = {}

    def word(self, number: int, value: int, region: int | None = None) -> None:
        at = 0 if region is None else self.region_at(region)
        struct.pack_into("@Q", self.data, at + 8 * number, value)

    def words(self, region: int) -> tuple[int, ...]:
        return struct.unpack_from("@32Q", self.data, self.region_at(region))

    def region_at(self, number: int) -> int:
        return region_at(number, self.first, self.other)

    def geometry(self, number: int) -> Geometry:
        return self.other if number else self.first

    def claim(
        self, pid: int, claimed: int, *, region: int = 0, parent: tuple[int, int, int] | None = None
    ) -> None:
        """`parent`: its PID, when it claimed its region, and its call site."""
        self.word(layout.R_STATE, layout.STATE_ACTIVE, region)
        self.word(layout.R_PID, pid, region)
        self.word(layout.R_CLAIMED, claimed, region)
        if parent is not None:
            self.word(layout.R_PARENT_PID, parent[0], region)
            self.word(layout.R_PARENT_CLAIMED, parent[1], region)
            self.word(layout.R_PARENT_SITE, parent[2], region)

    def site(self, stack: Stack, region: int = 0) -> int:
        """The number of a new call site."""
        numbers = [
            self._frame(file.encode(), function.encode(), line, region) for file, function, line in stack
        ]
        count = self.words(region)[layout.R_SITES]
        at = self.region_at(region) + self.geometry(region).sites_at + count * layout.SITE.size
        layout.SITE.pack_into(self.data, at, *numbers, *(0,) * (layout.DEPTH - len(numbers)))
        self.word(layout.R_SITES, count + 1, region)
        return count + 1

    def _frame(self, file: bytes, function: bytes, line: int, region: int) -> int:
        count = self.words(region)[layout.R_FRAMES]
        at = self.region_at(region) + self.geometry(region).frames_at + count * layout.FRAME.size
        layout.FRAME.pack_into(
            self.data, at, self.string(file, region), self.string(function, region), line, 0
        )
        self.word(layout.R_FRAMES, count + 1, region)
        return count + 1

    def string(self, text: bytes, region: int = 0) -> int:
        used = self.words(region)[layout.R_STRINGS]
        at = self.region_at(region) + self.geometry(region).strings_at + used
        layout.STRING.pack_into(self.data, at, len(text))
        self.data[at + 2 : at + 2 + len(text)] = text
        self.word(layout.R_STRINGS, used + 2 + len(text), region)
        return used

    def slot(
        self,
        kind: str,
        keyed: int,
        *,
        fd: int = -1,
        device: int = 0,
        inode: int = 0,
        at: int | None = None,
        site: int = 0,
        thread: int = 0,
        extra: int = 0,
        region: int = 0,
        torn: bool = False,
    ) -> int:
        """Offset in the file of a new slot."""
        count = self.words(region)[layout.R_SLOTS]
        offset = self.region_at(region) + self.geometry(region).slots_at + count * layout.SLOT_SIZE
        time_ns = boottime() if at is None else at
        layout.SLOT.pack_into(
            self.data, offset, count + 1, KIND[kind], keyed, fd, device, inode, time_ns, site, thread, extra,
            count + (2 if torn else 1),
        )  # fmt: skip
        self.word(layout.R_SLOTS, count + 1, region)
        return offset

    def save(self, path: Path, mode: int = 0o600) -> Path:
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            os.write(fd, self.data)
            os.fchmod(fd, mode)
        finally:
            os.close(fd)
        return path
