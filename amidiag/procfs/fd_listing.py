"""Everything that is open in one process, FD by FD: what `fds.scan` counts, and what it leads to."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from amidiag.procfs.errors import explain
from amidiag.procfs.fdinfo import number_in, read_fdinfo
from amidiag.procfs.fds import FdScan, PipeKey, open_directory, open_mode, read_links, type_without_path
from amidiag.procfs.file_types import DELETED, TypeAsker
from amidiag.procfs.segments import kind_in_memory, segment_of

_SOCKET = "socket:["


class Opened(NamedTuple):
    """An FD that is neither an end of a pipe or FIFO nor a socket.

    `link` is what `/proc/PID/fd` shows, of a pidfd what it leads to; `mode` READ | WRITE, 0 with O_PATH;
    `key` (device, inode), None where the file system may not be asked or all of its type have the same;
    `allocated` bytes in memory or swap of what lives in memory only, else None.
    """

    fd: str
    type: str
    link: str
    mode: int
    key: tuple[int, int] | None
    allocated: int | None


class FdListing(FdScan):
    """What `FdScan` has, and the rest by name.

    Attributes:
        lone: FD and link of each pipe that no other FD of the process leads to. How it is opened has not been
            read, and these are not in `ends`: of ten thousand orphans the kernel tells it with their fate.
        sockets: FD and link (`socket:[4711]`).
        fifo_paths: the path of each FIFO in `ends`.
        others: all that is neither in `ends`, in `lone` nor in `sockets`.
    """

    __slots__ = ("fifo_paths", "lone", "others", "sockets")

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.lone: list[tuple[str, str]] = []
        self.sockets: list[tuple[str, str]] = []
        self.fifo_paths: dict[PipeKey, str] = {}
        self.others: list[Opened] = []

    def modes_of(self, pipes: Sequence[tuple[str, str]]) -> dict[str, int]:
        """How these of `lone` are opened, by FD, without what leads elsewhere by now. Raises ReaderExhausted."""
        if not pipes:
            return {}
        try:
            directory = open_directory(self.pid)
            try:
                modes = {fd: _mode_of(fd, link, directory) for fd, link in pipes}
            finally:
                os.close(directory)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return {}  # It has just ended, or changed its user.
        except OSError as error:
            raise explain(error, self.pid, None, "the FDs") from error
        return {fd: mode for fd, mode in modes.items() if mode is not None}

    def marks(self) -> Iterator[tuple[str, str]]:
        """Each FD with what tells it from another one that later has its number: FD, type and inode in one text.

        What has no inode of its own, an eventfd say, is told by its type only.
        """
        for fd, link in self.lone:
            yield fd, f"{fd} pipe {link[6:-1]}"
        for fd, pipe, _ in self.ends:
            yield fd, f"{fd} pipe {pipe[6:-1]}" if isinstance(pipe, str) else f"{fd} fifo {pipe[1]}"
        for fd, link in self.sockets:
            yield fd, f"{fd} socket {link[8:-1]}"
        for one in self.others:
            yield one.fd, f"{one.fd} {one.type} {'' if one.key is None else one.key[1]}"


def _mode_of(fd: str, link: str, directory: int) -> int | None:
    try:
        mode = open_mode(fd, directory)
        # Asked last: so it is the mode of this pipe.
        return mode if os.readlink(fd, dir_fd=directory) == link else None
    except FileNotFoundError:
        return None


def list_all(pid: int, name: str | None = None) -> FdListing:
    """Read all FDs of a process. Raises ProcessGone, NoPermission, ReaderExhausted.

    What is closed meanwhile is left out. A process that ends meanwhile may give a partial answer: check
    its identity afterwards.
    """
    try:
        directory = open_directory(pid)
        try:
            return _Lister(pid, name, directory).run(read_links(directory))
        finally:
            os.close(directory)
    except OSError as error:
        raise explain(error, pid, name, "the FDs") from error


class _Lister:
    """Sorts the links of one process."""

    def __init__(self, pid: int, name: str | None, directory: int) -> None:
        self._result = FdListing(pid)
        self._directory = directory
        self._types = TypeAsker(pid, name, directory)

    def run(self, links: list[tuple[str, str]]) -> FdListing:
        sockets, counts = self._result.sockets, self._result.by_type
        self._add_pipes([link for link in links if link[1].startswith("pipe:[")])
        # The first letter first: of many FDs nearly all are pipes.
        for fd, target in [link for link in links if link[1][0] != "p" or not link[1].startswith("pipe:[")]:
            kind: str | None
            if target.startswith(_SOCKET):
                sockets.append((fd, target))
                kind = "socket"
            else:
                try:
                    kind = self._other(fd, target)
                except FileNotFoundError:
                    continue  # Closed since the listing.
            if kind is not None:
                counts[kind] = counts.get(kind, 0) + 1
        self._result.not_asked = self._types.not_asked
        return self._result

    def _add_pipes(self, pipes: list[tuple[str, str]]) -> None:
        if not pipes:
            return
        result = self._result
        found = [link for _, link in pipes]
        if len(set(found)) == len(found):
            result.lone = pipes
        else:
            seen = Counter(found)
            result.lone = [pipe for pipe in pipes if seen[pipe[1]] == 1]
            for fd, link in pipes:
                if seen[link] > 1:
                    with contextlib.suppress(FileNotFoundError):  # Closed since the listing.
                        result.ends.append((fd, link, open_mode(fd, self._directory)))
        result.by_type["pipe"] = len(result.lone) + len(result.ends)

    def _other(self, fd: str, target: str) -> str | None:
        others = self._result.others
        if target[0] != "/":
            kind = type_without_path(target)
            if kind == "pidfd":
                target = self._pidfd(fd)
            others.append(Opened(fd, kind, target, open_mode(fd, self._directory), None, None))
            return kind
        found = self._types.known.get(target) or self._types.ask(fd, target)
        if found is None:
            return None  # Closed since the listing.
        kind, answer = found
        mode = open_mode(fd, self._directory)
        if answer is None:
            others.append(Opened(fd, kind, target, mode, None, None))
            return kind
        key = answer.st_dev, answer.st_ino
        if kind == "fifo":
            path = target.removesuffix(DELETED)
            self._result.fifo_names[key] = path.rpartition("/")[2]
            self._result.fifo_paths[key] = path
            self._result.ends.append((fd, key, mode))
            return kind
        allocated = None
        if self._types.is_memory(kind, target, answer):
            self._result.segments.append(segment_of(target, kind_in_memory(target), answer))
            allocated = answer.st_blocks * 512
        others.append(Opened(fd, kind, target, mode, key, allocated))
        return kind

    def _pidfd(self, fd: str) -> str:
        """Which process it leads to (proc_pid_fdinfo(5)): -1 is one that has ended, 0 one that is not seen here."""
        number = number_in(read_fdinfo(self._result.pid, fd), b"\nPid:")
        if not number:
            return "pidfd"
        return "pidfd of an ended process" if number < 0 else f"pidfd of {number}"
