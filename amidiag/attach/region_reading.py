"""One region of a call-site table as it was at one moment, although its owner goes on writing."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from functools import partial
from itertools import compress
from operator import ne

from amidiag.attach.trace_region import KEYED_OF, KIND_OF, SITE_OF, Frame, Region, Slot
from amidiag.attach.trace_source import TableFile, printable
from amidiag.target.trace_layout import (
    BY_ADDRESS,
    BY_FD,
    BY_INODE,
    BY_PROCESS,
    BY_THREAD,
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
_SEQUENCE, _SEQUENCE_AGAIN = 0, 10


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
