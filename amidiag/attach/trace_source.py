"""The bytes of a call-site table: whose file is believed, and that no number in it leads outside of it.

By `pread`, never by mmap: a file that is cut while it is mapped kills its reader with SIGBUS.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType

from amidiag.target.trace_layout import (
    BOOT_ID_AT,
    BOOT_ID_SIZE,
    F_FIRST_GEOMETRY,
    F_OTHER_GEOMETRY,
    F_PID,
    F_REALTIME,
    F_REGIONS,
    F_SIZE,
    F_START,
    F_UNTRACED_FORKS,
    F_VERSION,
    FRAME,
    HEADER_SIZE,
    MAGIC,
    PROGRAM_AT,
    PROGRAM_SIZE,
    REGION_HEADER_SIZE,
    SITE,
    SLOT_SIZE,
    VERSION,
    Geometry,
    region_at,
)

# O_NONBLOCK: to open a FIFO waits for a writer, else.
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_FILE_WORDS = struct.Struct("@16Q")
_REGION_WORDS = struct.Struct(f"@{REGION_HEADER_SIZE // 8}Q")
# Bytes. More than any table that the tracer makes: what claims to be larger is not worth this machine's memory.
_LARGEST = 1 << 30


class BadTableError(Exception):
    """The file is no call-site table of this version, is damaged, or is not believed. The text says which."""


class NoTableError(BadTableError):
    """It is another sort of file, or a table that is just being made."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a table says of itself. `realtime`: CLOCK_REALTIME minus CLOCK_BOOTTIME in ns, when it was made."""

    pid: int
    start_ticks: int
    boot_id: str
    program: str
    regions: int
    untraced_forks: int
    realtime: int
    first: Geometry
    other: Geometry

    def place(self, number: int) -> tuple[int, Geometry]:
        """Offset and measures of a region."""
        return region_at(number, self.first, self.other), self.other if number else self.first


class TableFile:
    """A table opened for reading. Use as `with TableFile(path, owners) as file`.

    Raises:
        BadTableError: no regular file, open to others than its owner, or of a user who is not in `owners`.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, owners: Collection[int], *, way: str | None = None) -> None:
        """`way`: what to open in the place of `path`, in `/proc`; a link there leads to the file that is mapped."""
        self.path = path
        self._fd = _open(path if way is None else way, follow=way is not None and "/map_files/" in way)
        try:
            self._check_sort()
            self._check_owner(owners)
            self.header = self._read_header()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> TableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def stat(self) -> os.stat_result:
        """Of the open file."""
        return os.fstat(self._fd)

    def read(self, at: int, size: int) -> bytes:
        """Exactly these bytes. Raises BadTableError where the file has ended before, OSError."""
        data = os.pread(self._fd, size, at)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), at + len(data))
            if not more:
                raise BadTableError(f"{self.path} was cut off while it was read, or before")
            data += more
        return data

    def region_words(self, number: int) -> tuple[int, ...]:
        """The words of a region's header."""
        at, _ = self.header.place(number)
        return _REGION_WORDS.unpack(self.read(at, REGION_HEADER_SIZE))

    def damaged(self, what: str) -> BadTableError:
        """The error that says so."""
        return BadTableError(f"{self.path} is damaged: {what}")

    def _check_sort(self) -> None:
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode):
            raise NoTableError(f"{self.path} is no call-site table: not a regular file")
        if info.st_size < HEADER_SIZE or self.read(0, 8) != MAGIC:
            raise NoTableError(f"{self.path} is no call-site table, or is just being made")

    def _check_owner(self, owners: Collection[int]) -> None:
        info = os.fstat(self._fd)
        if info.st_uid not in owners:
            raise BadTableError(
                f"{self.path} belongs to another user (uid {info.st_uid}) and is not believed"
            )
        if info.st_mode & 0o077:
            raise BadTableError(f"{self.path} is open to other users and is not believed")

    def _read_header(self) -> Header:
        raw = self.read(0, HEADER_SIZE)
        words = _FILE_WORDS.unpack_from(raw)
        if words[F_VERSION] != VERSION:
            raise BadTableError(f"{self.path} has version {words[F_VERSION]}, this amidiag reads {VERSION}")
        first = self._geometry(words[F_FIRST_GEOMETRY : F_FIRST_GEOMETRY + 4])
        other = self._geometry(words[F_OTHER_GEOMETRY : F_OTHER_GEOMETRY + 4])
        regions = words[F_REGIONS]
        # Asked after the words were read, as the file grows before they do.
        size = os.fstat(self._fd).st_size
        if regions > _LARGEST or size > _LARGEST:
            raise self.damaged("its measures are beyond all reason")
        if max(words[F_SIZE], region_at(regions, first, other)) > size:
            raise self.damaged("it is shorter than it says")
        return Header(
            pid=words[F_PID],
            start_ticks=words[F_START],
            boot_id=_text(raw[BOOT_ID_AT : BOOT_ID_AT + BOOT_ID_SIZE]),
            program=_text(raw[PROGRAM_AT : PROGRAM_AT + PROGRAM_SIZE]),
            regions=regions,
            untraced_forks=words[F_UNTRACED_FORKS],
            realtime=_signed(words[F_REALTIME]),
            first=first,
            other=other,
        )

    def _geometry(self, words: tuple[int, ...]) -> Geometry:
        slots, sites, frames, strings = words
        if slots * SLOT_SIZE + sites * SITE.size + frames * FRAME.size + strings > _LARGEST:
            raise self.damaged("its measures are beyond all reason")
        return Geometry(slots, sites, frames, strings)


def _open(path: str, *, follow: bool) -> int:
    try:
        return os.open(path, _OPEN | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadTableError(f"{path} is a link and is not believed") from error
        raise


def _signed(word: int) -> int:
    # A clock that was never set may be behind the time since boot.
    return word - (1 << 64) if word >> 63 else word


def _text(raw: bytes) -> str:
    return printable(raw.partition(b"\0")[0])


def printable(raw: bytes) -> str:
    """Text that another program wrote, without what a terminal would obey: such characters are escaped."""
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
