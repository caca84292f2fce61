"""The file of a call-site table: made, handed out region by region, and taken away again.

Regions for children are mapped before they are needed: neither a fork nor the child needs a descriptor.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
from _thread import get_ident
from errno import EFBIG
from posix import close, fstat, getpid, posix_fallocate, sysconf, unlink

# The unhooked one.
from posix import open as _open
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit
from time import CLOCK_REALTIME, clock_gettime_ns, sleep

from .mapping import map_shared
from .old_files import tidy
from .private_files import boot_id, private_dir, runs, runtime_dir, start_ticks
from .program_name import program_name
from .sweep import alive
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
_NONE = Geometry(slots=0, sites=0, frames=0, strings=0)
_CHILDREN, _MOST_CHILDREN = 8, 256
# A reservation that no child has taken up for so long, in nanoseconds, was for a fork that failed.
_STALE = 60_000_000_000
_PAGE = sysconf("SC_PAGE_SIZE")
_ALL_BITS = (1 << 64) - 1


# A thread waits so often, for so long (seconds), for another that is about to fork too.
_PATIENCE, _PAUSE_S = 200, 0.001


class TraceFile:
    """The table file of this process. Only its maker reserves regions.

    Raises:
        OSError: no directory, no space, no permission, no descriptor left.
        ImportError: see `mapping`.
    """

    def __init__(self, *, slots: int = SLOTS, with_first: bool = True) -> None:
        """`slots`: of the maker; each child has an eighth, at least 16 and at most as many as is usual."""
        self.pid = getpid()
        self._first = Geometry(slots, _SITES, _FRAMES, _STRINGS) if with_first else _NONE
        self._other = Geometry(min(max(slots // 8, 16), SLOTS), 512, 1024, 64 * 1024)
        self._regions = 1 + _CHILDREN
        # Who is reserving a region: (thread,), one of its own for each time.
        self._inside: tuple[int] | None = None
        # Region 1 begins the first part; each part is a mapping of its own, so that the file can grow.
        self._parts: list[memoryview] = []
        start = start_ticks()
        directory = private_dir(runtime_dir())
        tidy(directory, self.pid, start)
        size = self._begin_of(self._regions)
        self.path, fd = _new_file(directory, self.pid, start)
        try:
            info = fstat(fd)
            self._identity = info.st_dev, info.st_ino
            _allocate(fd, 0, size)
            self._parts.append(map_shared(fd, size))
        except BaseException:
            unlink(self.path)
            raise
        finally:
            close(fd)
        self._words = self._parts[0][:HEADER_SIZE].cast("Q")
        self._fill(size, start)

    def _fill(self, size: int, start: int) -> None:
        words, memory = self._words, self._parts[0]
        words[F_VERSION] = VERSION
        words[F_SIZE] = size
        words[F_PID] = self.pid
        words[F_START] = start
        words[F_REGIONS] = self._regions
        # A clock that was never set may be behind: then it is negative.
        words[F_REALTIME] = (clock_gettime_ns(CLOCK_REALTIME) - boottime()) & _ALL_BITS
        for at, geometry in ((F_FIRST_GEOMETRY, self._first), (F_OTHER_GEOMETRY, self._other)):
            for i, number in enumerate(geometry.words()):
                words[at + i] = number
        memory[BOOT_ID_AT : BOOT_ID_AT + BOOT_ID_SIZE] = (
            boot_id().encode()[:BOOT_ID_SIZE].ljust(BOOT_ID_SIZE, b"\0")
        )
        program = program_name().encode("utf-8", "backslashreplace")[: PROGRAM_SIZE - 1]
        memory[PROGRAM_AT : PROGRAM_AT + len(program)] = program
        # Last: a file without its magic is not yet one.
        memory[0:8] = MAGIC

    def first(self) -> Region:
        """The maker's own region, claimed."""
        region = Region(self._parts[0], self._begin_of(0), self._first)
        region.claim(self.pid)
        return region

    def reserve(self, parent: tuple[int, int], site: int) -> Reservation | None:
        """A region for the child of a fork that is about to happen, from the call site `site` of `parent`.

        `parent`: PID of the forking process and when it claimed its region. None, and counted, if all are
        taken by living processes and no more can be made.
        """
        me = (get_ident(),)
        for _ in range(_PATIENCE):
            try:
                # See CallSites: no lock, but a line that calls nothing.
                holder = self._inside = self._inside or me
                if holder is me:
                    return self._reserve(parent, site)
            finally:
                self._inside = None if self._inside is me else self._inside
            if holder[0] == me[0]:
                break  # A signal handler that forks, come in while its own thread is about to.
            sleep(_PAUSE_S)
        self._words[F_UNTRACED_FORKS] += 1
        return None

    def _reserve(self, parent: tuple[int, int], site: int) -> Reservation | None:
        number = self._unused()
        if number is None:
            self._words[F_UNTRACED_FORKS] += 1
            return None
        words = self._words_of(number)
        words[R_STATE] = STATE_FREE
        # What is older than the new owner must not be read as its own.
        memory, at = self._place(number)
        begin, used = at + self._other.slots_at, words[R_SLOTS] * SLOT_SIZE
        memory[begin : begin + used] = bytes(used)
        memory[at : at + REGION_HEADER_SIZE] = bytes(REGION_HEADER_SIZE)
        words[R_PARENT_PID], words[R_PARENT_CLAIMED] = parent
        words[R_PARENT_SITE] = site
        words[R_RESERVED] = stamp = boottime()
        words[R_STATE] = STATE_RESERVED
        return Reservation(memory, at, self._other, stamp)

    def unlink(self) -> None:
        """Take the file away, unless a forked child that lives on has its region in it."""
        if any(self._outlives_us(number) for number in range(1, self._regions)):
            return
        try:
            unlink(self.path)
        except FileNotFoundError:
            return  # Somebody was quicker.

    def _begin_of(self, number: int) -> int:
        return region_at(number, self._first, self._other)

    def _place(self, number: int) -> tuple[memoryview, int]:
        """The mapping that region `number` lies in, and its offset there."""
        if number <= _CHILDREN:
            return self._parts[0], self._begin_of(number)
        part, index = divmod(number - 1, _CHILDREN)
        return self._parts[part], self._shift(part) + index * self._other.size

    def _shift(self, part: int) -> int:
        # A mapping begins with a whole page; all sizes here are whole ones of 4 KiB, which may be smaller.
        return self._begin_of(1 + part * _CHILDREN) % _PAGE

    def _words_of(self, number: int) -> memoryview:
        memory, at = self._place(number)
        return memory[at : at + REGION_HEADER_SIZE].cast("Q")

    def _unused(self) -> int | None:
        """A region that nobody has, else that of the process dead for longest, else a new one."""
        free, dead = [], []
        for number in range(1, self._regions):
            if not self._is_used(number):
                words = self._words_of(number)
                if words[R_STATE] == STATE_ACTIVE:
                    dead.append((words[R_CLAIMED], number))
                else:
                    free.append(number)
        found = free[0] if free else min(dead)[1] if dead else None
        if len(free) + len(dead) > 1:
            return found
        # One ahead of need: at EMFILE, when the need may come, no file can be opened to map more of it.
        grown = self._grow()
        return grown if found is None else found

    def _is_used(self, number: int) -> bool:
        """Whether a living process has it, or will take it up when its fork is done."""
        words = self._words_of(number)
        state = words[R_STATE]
        if state == STATE_ACTIVE:
            return alive(words[R_PID])
        return state == STATE_RESERVED and boottime() - words[R_RESERVED] < _STALE

    def _outlives_us(self, number: int) -> bool:
        words = self._words_of(number)
        if words[R_STATE] == STATE_ACTIVE:
            return runs(words[R_PID], words[R_CLAIMED])
        return self._is_used(number)

    def _grow(self) -> int | None:
        """Map room for more children; the number of the first new region, None if that fails."""
        if self._regions + _CHILDREN > 1 + _MOST_CHILDREN or self.pid != getpid():
            return None
        begin = self._begin_of(self._regions)
        size = _CHILDREN * self._other.size
        offset = begin // _PAGE * _PAGE
        try:
            fd = _open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                info = fstat(fd)
                if (info.st_dev, info.st_ino) != self._identity:
                    return None
                _allocate(fd, begin, size)
                self._parts.append(map_shared(fd, begin + size - offset, offset))
            finally:
                close(fd)
        except OSError:
            return None
        number, self._regions = self._regions, self._regions + _CHILDREN
        self._words[F_SIZE] = begin + size
        self._words[F_REGIONS] = self._regions
        return number


class Reservation:
    """A region waiting for its child."""

    __slots__ = ("_at", "_geometry", "_memory", "_stamp")

    def __init__(self, memory: memoryview, at: int, geometry: Geometry, stamp: int) -> None:
        self._memory = memory
        self._at = at
        self._geometry = geometry
        self._stamp = stamp

    def claim(self) -> Region | None:
        """For the child: take it. None if it came so late that another was given it."""
        region = Region(self._memory, self._at, self._geometry)
        if region.words[R_STATE] != STATE_RESERVED or region.words[R_RESERVED] != self._stamp:
            return None
        region.claim(getpid())
        return region


def _allocate(fd: int, begin: int, size: int) -> None:
    # A sparse file on a full file system would kill the program with SIGBUS at its first write; and beyond
    # its limit for files a program that does not ignore SIGXFSZ is killed as well.
    limit = getrlimit(RLIMIT_FSIZE)[0]
    if limit != RLIM_INFINITY and begin + size > limit:
        raise OSError(EFBIG, os.strerror(EFBIG))
    posix_fallocate(fd, begin, size)


def _new_file(directory: str, pid: int, start: int) -> tuple[str, int]:
    """Path and descriptor of a file that did not exist. A process that has exec'ed has one already."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    for turn in range(1000):
        path = f"{directory}/{pid}-{start}{f'-{turn}' if turn else ''}{SUFFIX}"
        try:
            return path, _open(path, flags, 0o600)
        except FileExistsError:
            continue
    raise FileExistsError(f"{directory} holds a thousand tables of process {pid}")
