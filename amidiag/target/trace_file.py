"""The file of a call-site table: made, handed out region by region, and taken away again.

Regions for children are mapped before they are needed: neither a fork nor the child needs a descriptor.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import posix
import sys
import time

from .private_files import boot_id, private_dir, runtime_dir, start_ticks
from .trace_layout import (
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
    HEADER_SIZE,
    MAGIC,
    PROGRAM_AT,
    PROGRAM_SIZE,
    R_CLAIMED,
    R_PARENT_CLAIMED,
    R_PARENT_PID,
    R_PARENT_SITE,
    R_PID,
    R_RESERVED,
    R_SLOTS,
    R_STATE,
    REGION_HEADER_SIZE,
    SLOT_SIZE,
    STATE_ACTIVE,
    STATE_FREE,
    STATE_RESERVED,
    SUFFIX,
    VERSION,
    Geometry,
    region_at,
)
from .trace_region import Region, boottime

SLOTS = 32768
_SITES, _FRAMES, _STRINGS = 4096, 8192, 384 * 1024
_OTHER = Geometry(slots=4096, sites=512, frames=1024, strings=64 * 1024)
_NONE = Geometry(slots=0, sites=0, frames=0, strings=0)
_CHILDREN, _MOST_CHILDREN = 16, 256
# A reservation that no child has taken up for so long, in nanoseconds, was for a fork that failed.
_STALE = 60_000_000_000
_KEPT_DEAD, _KEPT_FOR_S = 20, 7 * 86400


class TraceFile:
    """The table file of this process. Only its maker reserves regions.

    Raises:
        OSError: no directory, no space, no permission, no descriptor left.
    """

    def __init__(self, *, slots: int = SLOTS, with_first: bool = True) -> None:
        self.pid = os.getpid()
        self._first = Geometry(slots, _SITES, _FRAMES, _STRINGS) if with_first else _NONE
        self._regions = 1 + _CHILDREN
        # Region 1 begins the first part; each part is a mapping of its own, so that the file can grow.
        self._parts: list[mmap.mmap] = []
        directory = private_dir(runtime_dir())
        _sweep(directory)
        size = region_at(self._regions, self._first, _OTHER)
        self.path, fd = _new_file(directory, self.pid, start_ticks())
        try:
            # A sparse file on a full file system would kill the program with SIGBUS at its first write.
            os.posix_fallocate(fd, 0, size)
            self._parts.append(mmap.mmap(fd, size))
        except BaseException:
            os.unlink(self.path)
            raise
        finally:
            os.close(fd)
        self._words = memoryview(self._parts[0])[:HEADER_SIZE].cast("Q")
        self._fill(size)

    def _fill(self, size: int) -> None:
        words, memory = self._words, self._parts[0]
        words[F_VERSION] = VERSION
        words[F_SIZE] = size
        words[F_PID] = self.pid
        words[F_START] = start_ticks()
        words[F_REGIONS] = self._regions
        words[F_REALTIME] = time.time_ns() - boottime()
        for at, geometry in ((F_FIRST_GEOMETRY, self._first), (F_OTHER_GEOMETRY, _OTHER)):
            for i, number in enumerate(geometry.words()):
                words[at + i] = number
        memory[BOOT_ID_AT : BOOT_ID_AT + BOOT_ID_SIZE] = (
            boot_id().encode()[:BOOT_ID_SIZE].ljust(BOOT_ID_SIZE, b"\0")
        )
        program = _program().encode("utf-8", "backslashreplace")[: PROGRAM_SIZE - 1]
        memory[PROGRAM_AT : PROGRAM_AT + len(program)] = program
        # Last: a file without its magic is not yet one.
        memory[0:8] = MAGIC

    def first(self) -> Region:
        """The maker's own region, claimed."""
        region = Region(self._parts[0], region_at(0, self._first, _OTHER), self._first)
        region.claim(self.pid)
        return region

    def reserve(self, parent: tuple[int, int], site: int) -> Reservation | None:
        """A region for the child of a fork that is about to happen, from the call site `site` of `parent`.

        `parent`: PID of the forking process and when it claimed its region. None, and counted, if all are
        taken by living processes and no more can be made.
        """
        number = self._unused()
        if number is None:
            self._words[F_UNTRACED_FORKS] += 1
            return None
        words = self._words_of(number)
        words[R_STATE] = STATE_FREE
        # What is older than the new owner must not be read as its own.
        memory, at = self._place(number)
        used = words[R_SLOTS]
        memory[at + _OTHER.slots_at : at + _OTHER.slots_at + used * SLOT_SIZE] = bytes(used * SLOT_SIZE)
        memory[at : at + REGION_HEADER_SIZE] = bytes(REGION_HEADER_SIZE)
        words[R_PARENT_PID], words[R_PARENT_CLAIMED] = parent
        words[R_PARENT_SITE] = site
        words[R_RESERVED] = stamp = boottime()
        words[R_STATE] = STATE_RESERVED
        return Reservation(memory, at, stamp)

    def unlink(self) -> None:
        """Take the file away; who has it mapped may go on writing."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _place(self, number: int) -> tuple[mmap.mmap, int]:
        """The mapping that region `number` lies in, and its offset there."""
        if number <= _CHILDREN:
            return self._parts[0], region_at(number, self._first, _OTHER)
        part, index = divmod(number - 1, _CHILDREN)
        return self._parts[part], self._shift() + index * _OTHER.size

    def _shift(self) -> int:
        # mmap wants offsets in whole allocation units; all sizes here are whole pages, which may be smaller.
        return region_at(1, self._first, _OTHER) % mmap.ALLOCATIONGRANULARITY

    def _words_of(self, number: int) -> memoryview:
        memory, at = self._place(number)
        return memoryview(memory)[at : at + REGION_HEADER_SIZE].cast("Q")

    def _unused(self) -> int | None:
        """A region that nobody has, else that of the process dead for longest, else a new one."""
        now, dead = boottime(), []
        for number in range(1, self._regions):
            words = self._words_of(number)
            state = words[R_STATE]
            if state == STATE_FREE or (state == STATE_RESERVED and now - words[R_RESERVED] > _STALE):
                return number
            if state == STATE_ACTIVE and not _alive(words[R_PID]):
                dead.append((words[R_CLAIMED], number))
        return min(dead)[1] if dead else self._grow()

    def _grow(self) -> int | None:
        """Map room for more children; the number of the first new region, None if that fails."""
        if self._regions + _CHILDREN > 1 + _MOST_CHILDREN or self.pid != os.getpid():
            return None
        begin = region_at(self._regions, self._first, _OTHER)
        size = _CHILDREN * _OTHER.size
        offset = begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            fd = posix.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.posix_fallocate(fd, begin, size)
                self._parts.append(mmap.mmap(fd, begin + size - offset, offset=offset))
            finally:
                os.close(fd)
        except OSError:
            return None
        number, self._regions = self._regions, self._regions + _CHILDREN
        self._words[F_SIZE] = begin + size
        self._words[F_REGIONS] = self._regions
        return number


class Reservation:
    """A region waiting for its child."""

    __slots__ = ("_at", "_memory", "_stamp")

    def __init__(self, memory: mmap.mmap, at: int, stamp: int) -> None:
        self._memory = memory
        self._at = at
        self._stamp = stamp

    def claim(self) -> Region | None:
        """For the child: take it. None if it came so late that another was given it."""
        region = Region(self._memory, self._at, _OTHER)
        if region.words[R_STATE] != STATE_RESERVED or region.words[R_RESERVED] != self._stamp:
            return None
        region.claim(os.getpid())
        return region


def _new_file(directory: str, pid: int, start: int) -> tuple[str, int]:
    """Path and descriptor of a file that did not exist. A process that has exec'ed has one already."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for turn in range(1000):
        path = os.path.join(directory, f"{pid}-{start}{f'-{turn}' if turn else ''}{SUFFIX}")
        with contextlib.suppress(FileExistsError):
            return path, posix.open(path, flags, 0o600)
    raise FileExistsError(f"{directory} holds a thousand tables of process {pid}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # It lives, as somebody else.
    return True


def _program() -> str:
    """The script or module that runs, without its arguments, which may hold secrets."""
    words = iter(sys.orig_argv[1:])
    for word in words:
        if word == "-m":
            return next(words, "-m")
        if word == "-c":
            return "-c"
        if word in ("-W", "-X", "--check-hash-based-pycs"):
            next(words, None)
        elif not word.startswith("-"):
            return os.path.basename(word)
    return os.path.basename(sys.executable or "python")


def _sweep(directory: str) -> None:
    """Remove what dead processes of this user left, but for the newest of this week."""
    dead = []
    with os.scandir(directory) as entries:
        for entry in entries:
            pid = entry.name.split("-")[0]
            if not (entry.name.endswith(SUFFIX) and pid.isdigit()) or os.path.exists("/proc/" + pid):
                continue
            # A courtesy, and another program of ours may sweep at the same moment.
            with contextlib.suppress(OSError):
                dead.append((entry.stat(follow_symlinks=False).st_mtime, entry.path))
    dead.sort(reverse=True)
    limit = time.time() - _KEPT_FOR_S
    for place, (written, path) in enumerate(dead):
        if place >= _KEPT_DEAD or written < limit:
            with contextlib.suppress(OSError):
                os.unlink(path)
