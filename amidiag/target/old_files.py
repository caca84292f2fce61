"""The table files that earlier programs, and earlier lives of this one, have left: how many are kept.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
import time
from posix import close, pread, scandir, unlink

# The unhooked one.
from posix import open as _open

from .private_files import lives, runs
from .trace_layout import (
    F_FIRST_GEOMETRY,
    F_OTHER_GEOMETRY,
    F_REGIONS,
    HEADER_SIZE,
    MAGIC,
    R_CLAIMED,
    R_PID,
    R_STATE,
    STATE_ACTIVE,
    SUFFIX,
    Geometry,
    region_at,
)

_KEPT_DEAD, _KEPT_FOR_S = 20, 7 * 86400
# A program that has become another by exec leaves its table; one that reloads itself so leaves many.
_KEPT_LIVES = 2
_MOST_REGIONS = 4096


def tidy(directory: str, pid: int, start: int) -> None:
    """Remove what dead processes of this user have left, but for the newest of this week; and of the
    process itself what it was before, but for the last two."""
    dead, earlier = [], []
    with scandir(directory) as entries:
        for entry in entries:
            # PID-START.trace or PID-START-TURN.trace
            name, dot, suffix = entry.name.rpartition(".")
            numbers = name.split("-")
            if dot + suffix != SUFFIX or len(numbers) < 2 or not (numbers[0] + numbers[1]).isdecimal():
                continue
            try:
                found = (entry.stat(follow_symlinks=False).st_mtime, entry.path)
            except OSError:
                continue  # Another program of ours tidies at this moment.
            owner = int(numbers[0]), int(numbers[1])
            if owner == (pid, start):
                earlier.append(found)
            elif not lives(*owner):
                dead.append(found)
    dead.sort(reverse=True)
    earlier.sort(reverse=True)
    limit = time.time() - _KEPT_FOR_S
    for place, (written, path) in enumerate(dead):
        if place >= _KEPT_DEAD or written < limit:
            _remove(path)
    for _, path in earlier[_KEPT_LIVES:]:
        _remove(path)


def _remove(path: str) -> None:
    try:
        if not _used_by_a_child(path):
            unlink(path)
    except (OSError, ValueError):
        return  # A courtesy, and no harm where it fails.


def _used_by_a_child(path: str) -> bool:
    """Whether a process that was forked by its maker, and has outlived it, still writes there."""
    fd = _open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        header = pread(fd, HEADER_SIZE, 0)
        if len(header) < HEADER_SIZE or not header.startswith(MAGIC):
            return False
        words = memoryview(header).cast("Q")
        first = Geometry(*words[F_FIRST_GEOMETRY : F_FIRST_GEOMETRY + 4])
        other = Geometry(*words[F_OTHER_GEOMETRY : F_OTHER_GEOMETRY + 4])
        for number in range(1, min(words[F_REGIONS], _MOST_REGIONS)):
            region = memoryview(pread(fd, 64, region_at(number, first, other))).cast("Q")
            if region[R_STATE] == STATE_ACTIVE and runs(region[R_PID], region[R_CLAIMED]):
                return True
        return False
    finally:
        close(fd)
