"""The open FDs of one process: how many, of what type, and which pipe ends and shared memory among them.

The counting path is one `stat`. The full path is one readlink(2) per FD, plus what the type needs: a
pipe an `lstat` for its open mode, a file its mode and first the proof that asking for it cannot block.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from amidiag.procfs.errors import explain
from amidiag.procfs.file_types import DELETED, TypeAsker
from amidiag.procfs.segments import Segment, kind_in_memory, segment_of

READ, WRITE = 1, 2
# By the two bits r and w of the owner, S_IRUSR and S_IWUSR.
_OF_BITS = (0, WRITE, READ, READ | WRITE)
_OWNER_WRITES = 7
# How many numbers are asked for before a look at how many of them were free, and how many may be from the start.
_AT_ONCE, _HOLES = 250, 100

# A pipe is known by its link, "pipe:[4711]"; a FIFO by (device, inode).
PipeKey = str | tuple[int, int]
# FD, which pipe, and READ | WRITE as it was opened.
PipeEnd = tuple[str, PipeKey, int]

_NAMESPACES = frozenset(
    ("cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts")
)


class FdScan:
    """The FDs of one process at one instant.

    Attributes:
        by_type: number of FDs of each type; together all of them.
        ends: every pipe and FIFO end.
        fifo_names: last part of the path of each FIFO in `ends`.
        segments: shared memory held open by an FD.
        not_asked: FDs of type "file": on a file system that could block, or that is not known here.
    """

    __slots__ = ("by_type", "ends", "fifo_names", "not_asked", "pid", "segments")

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.by_type: dict[str, int] = {}
        self.ends: list[PipeEnd] = []
        self.fifo_names: dict[PipeKey, str] = {}
        self.segments: list[Segment] = []
        self.not_asked = 0

    @property
    def open(self) -> int:
        """How many FDs are open."""
        return sum(self.by_type.values())


@cache
def size_is_count() -> bool:
    """Whether `st_size` of `/proc/PID/fd` is the number of open FDs: since Linux 6.2; before, it is 0."""
    try:
        directory = open_directory(os.getpid())
    except OSError as error:
        raise explain(error, os.getpid(), None, "the FDs") from error
    try:
        return os.fstat(directory).st_size > 0  # At least `directory` itself is open.
    finally:
        os.close(directory)


def count(pid: int, *, listing: bool | None = None) -> int:
    """How many FDs are open. `listing=True` forces the way of kernels before 6.2.

    Raises ProcessGone; when listing NoPermission, which the `stat` never needs.
    """
    listed = not size_is_count() if listing is None else listing
    try:
        return len(os.listdir(f"/proc/{pid}/fd")) if listed else os.stat(f"/proc/{pid}/fd").st_size
    except OSError as error:
        raise explain(error, pid, None, "the FDs") from error


def open_directory(pid: int) -> int:
    """A descriptor of `/proc/PID/fd`, which stays bound to this process when the PID is reused."""
    return os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def read_links(directory: int) -> list[tuple[str, str]]:
    """(FD, what it leads to) of every FD. Raises OSError. Needs one more free descriptor."""
    links, number = _lowest_links(directory, os.fstat(directory).st_size)
    if number:
        # The position in this directory is the FD and 2 (fs/proc/fd.c, proc_readfd_common): the rest is listed.
        os.lseek(directory, number + 2, os.SEEK_SET)
    fds = os.listdir(directory)
    try:
        return links + _links_of(fds, directory)
    except FileNotFoundError:
        return links + list(_links_one_by_one(fds, directory))


def _lowest_links(directory: int, count: int) -> tuple[list[tuple[str, str]], int]:
    """The links of the lowest numbers, and the first number that was not looked at.

    The kernel gives out the lowest free number, so that of many FDs nearly all numbers are in use: asking
    for each spares a listing, which costs a quarter of it all.
    """
    links: list[tuple[str, str]] = []
    number = 0
    while number + _AT_ONCE <= count and number - len(links) <= _HOLES + number // 8:
        fds = [str(fd) for fd in range(number, number + _AT_ONCE)]
        try:
            links += _links_of(fds, directory)
        except FileNotFoundError:
            links += _links_one_by_one(fds, directory)
        number += _AT_ONCE
    return links, number


def _links_of(fds: list[str], directory: int) -> list[tuple[str, str]]:
    readlink = os.readlink
    return list(zip(fds, [readlink(fd, dir_fd=directory) for fd in fds], strict=True))


def _links_one_by_one(fds: Iterable[str], directory: int) -> Iterator[tuple[str, str]]:
    for fd in fds:
        try:
            yield fd, os.readlink(fd, dir_fd=directory)
        except FileNotFoundError:
            continue  # Closed since the listing, or a number that is free.


def open_mode(fd: str, directory: int) -> int:
    """READ | WRITE as the FD was opened, 0 with O_PATH. Raises FileNotFoundError once it is closed.

    The permissions of the link itself say it (fs/proc/fd.c, tid_fd_update_inode): no need of fdinfo.
    """
    return _OF_BITS[os.lstat(fd, dir_fd=directory).st_mode >> _OWNER_WRITES & 3]


def open_modes(pid: int, fds: Sequence[str]) -> list[int | None]:
    """`open_mode` of several FDs of a process, None of what is closed by now. Raises ReaderExhausted."""
    try:
        directory = open_directory(pid)
        try:
            parts = (fds[at : at + _AT_ONCE] for at in range(0, len(fds), _AT_ONCE))
            return [mode for some in parts for mode in _modes(some, directory)]
        finally:
            os.close(directory)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return [None] * len(fds)  # It has just ended, or changed its user.
    except OSError as error:
        raise explain(error, pid, None, "the FDs") from error


def _modes(fds: Sequence[str], directory: int) -> Sequence[int | None]:
    lstat = os.lstat
    try:
        # As `open_mode`, whose call would cost a tenth of this again.
        return [_OF_BITS[lstat(fd, dir_fd=directory).st_mode >> _OWNER_WRITES & 3] for fd in fds]
    except FileNotFoundError:
        return [_mode_if_open(fd, directory) for fd in fds]


def _mode_if_open(fd: str, directory: int) -> int | None:
    try:
        return open_mode(fd, directory)
    except FileNotFoundError:
        return None


def scan(pid: int, name: str | None = None, *, ends: bool = True) -> FdScan:
    """Read all FDs of a process with their types. Raises ProcessGone, NoPermission, ReaderExhausted.

    Without `ends` pipes are only counted, which spares an `lstat` for each.

    A process that ends meanwhile may give a partial answer: check its identity afterwards. Threads that
    have left the common FD table (unshare(2), CLONE_FILES) are not looked at.
    """
    try:
        directory = open_directory(pid)
        try:
            return _Scanner(pid, name, directory, ends=ends).run(read_links(directory))
        finally:
            os.close(directory)
    except OSError as error:
        raise explain(error, pid, name, "the FDs") from error


def type_without_path(target: str) -> str:
    """Type of an FD that leads to no path: `socket:[1]`, `anon_inode:[eventfd]`, `net:[4026531833]`."""
    head, _, tail = target.partition(":")
    if head != "anon_inode":
        return "namespace" if head in _NAMESPACES else head
    kind = tail.strip("[]")
    return "bpf" if kind.startswith("bpf") else kind


class _Scanner:
    """Sorts the links of one process."""

    def __init__(self, pid: int, name: str | None, directory: int, *, ends: bool) -> None:
        self._with_ends = ends
        self._result = FdScan(pid)
        self._directory = directory
        self._types = TypeAsker(pid, name, directory)

    def run(self, links: list[tuple[str, str]]) -> FdScan:
        counts, known = self._result.by_type, self._types.known
        if not self._with_ends:
            others = [link for link in links if not link[1].startswith("pipe:[")]
            if len(others) < len(links):
                counts["pipe"] = len(links) - len(others)
            links = others
        for fd, target in links:
            kind: str | None
            if target.startswith("pipe:["):
                kind = "pipe"
                self._add_end(fd, target)
            elif target[0] != "/":
                kind = type_without_path(target)
            else:
                answer = known.get(target)
                kind = answer[0] if answer is not None else self._type_by_asking(fd, target)
            if kind is not None:
                counts[kind] = counts.get(kind, 0) + 1
        self._result.not_asked = self._types.not_asked
        return self._result

    def _add_end(self, fd: str, key: PipeKey) -> None:
        if not self._with_ends:
            return
        try:
            self._result.ends.append((fd, key, open_mode(fd, self._directory)))
        except FileNotFoundError:
            return  # Closed since the listing.

    def _type_by_asking(self, fd: str, target: str) -> str | None:
        found = self._types.ask(fd, target)
        if found is None:
            return None  # Closed since the listing.
        kind, answer = found
        if answer is None:
            return kind
        if kind == "fifo":
            key = (answer.st_dev, answer.st_ino)
            self._result.fifo_names[key] = target.removesuffix(DELETED).rpartition("/")[2]
            self._add_end(fd, key)
        elif self._types.is_memory(kind, target, answer):
            self._result.segments.append(segment_of(target, kind_in_memory(target), answer))
        return kind
