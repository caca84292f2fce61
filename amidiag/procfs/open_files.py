"""What a process has open, one by one: its FDs, and the shared memory that it maps without holding an FD.

Where `fds.scan` counts, this names: each FD with the (device, inode) that makes it one and the same
thing wherever it is seen. Of pipes and sockets the link tells the inode, and one of them the device.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from amidiag.procfs.errors import explain
from amidiag.procfs.fds import open_directory, read_links, type_without_path
from amidiag.procfs.file_types import TypeAsker
from amidiag.procfs.mounts import MemoryDevices
from amidiag.procfs.processes import read_file
from amidiag.procfs.segments import SHM_DIRECTORY
from amidiag.procfs.shm import Follower, SharedMapping, all_mappings

_SEMAPHORE = SHM_DIRECTORY + "sem."
# What shared memory is called where it is mapped and no FD says it: as an FD on it would be called, if there can be.
_TYPE_OF_KIND = {"torch": "shm", "posix": "shm", "tmpfs": "shm"}
_LETTERS = {"pipe": modes.S_IFIFO, "socket": modes.S_IFSOCK}


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One open FD, or one mapping of shared memory that no FD of the process holds (`fd` None).

    Attributes:
        type: as `by_type` of `fds.scan` names it; mapped segments are `shm`, `memfd`, `sysv`, `anonymous`
            or `semaphore`.
        device: `st_dev`, and `inode`: `st_ino`; None where the file system may not be asked and the
            kernel alone does not know.
        bytes: allocated memory of a segment; None for other things, and where it may not be asked.
        address: where a mapped segment begins; None for FDs.
    """

    fd: int | None
    type: str
    device: int | None
    inode: int | None
    bytes: int | None
    address: int | None


def list_open(pid: int, name: str | None = None) -> list[OpenFile]:
    """All open FDs, then each segment that is only mapped; of semaphores each mapping.

    What is closed meanwhile is left out. A process that ends meanwhile may give a partial answer: check
    its identity afterwards. Raises ProcessGone, NoPermission, ReaderExhausted.
    """
    opened = list_fds(pid, name)
    return opened + list_mapped(pid, opened, name)


def list_fds(pid: int, name: str | None = None, only: Collection[int] | None = None) -> list[OpenFile]:
    """The open FDs alone, or those `only`. Raises ProcessGone, NoPermission, ReaderExhausted."""
    try:
        directory = open_directory(pid)
        try:
            links = read_links(directory) if only is None else _links_of(directory, only)
            return list(_Lister(pid, name, directory).files(links))
        finally:
            os.close(directory)
    except OSError as error:
        raise explain(error, pid, name, "the FDs") from error


def list_mapped(pid: int, held: Iterable[OpenFile], name: str | None = None) -> list[OpenFile]:
    """Mapped segments but those that an FD among `held` is open on, each once, and every semaphore.

    Raises ProcessGone, NoPermission, ReaderExhausted.
    """
    data = read_file(pid, "maps", "the memory map", name)
    mappings, _ = all_mappings(data, MemoryDevices(pid, name))
    follower = Follower(pid, name)
    seen = {(file.device, file.inode) for file in held if file.bytes is not None}
    found = []
    for mapping in mappings:
        if mapping.name.startswith(_SEMAPHORE):
            found.append(_mapped(mapping, "semaphore", mapping.end - mapping.start))
        elif mapping.key not in seen:
            seen.add(mapping.key)
            kind = _TYPE_OF_KIND.get(mapping.kind, mapping.kind)
            found.append(_mapped(mapping, kind, follower.follow(mapping).allocated))
    return found


def _mapped(mapping: SharedMapping, kind: str, allocated: int | None) -> OpenFile:
    return OpenFile(None, kind, *mapping.key, allocated, mapping.start)


def _links_of(directory: int, fds: Iterable[int]) -> list[tuple[str, str]]:
    links = []
    for fd in fds:
        try:
            links.append((str(fd), os.readlink(str(fd), dir_fd=directory)))
        except FileNotFoundError:
            continue  # Closed.
    return links


class _Lister:
    """Names what the links of one process lead to."""

    def __init__(self, pid: int, name: str | None, directory: int) -> None:
        self._directory = directory
        self._types = TypeAsker(pid, name, directory)
        # All pipes of the machine are on one device, all sockets on another: one of each is asked.
        self._device_of: dict[str, int] = {}

    def files(self, links: Iterable[tuple[str, str]]) -> Iterable[OpenFile]:
        """One for each link, but for those that are closed by now."""
        known = self._types.known
        for fd, target in links:
            if target.startswith(("pipe:[", "socket:[")):
                kind, _, inode = target[:-1].partition(":[")
                device = self._device_of.get(kind) or self._learn_device(fd, kind, int(inode))
                if device is not None:
                    yield OpenFile(int(fd), kind, device, int(inode), None, None)
                continue
            if target[0] != "/":
                answer = self._ask(fd)
                if answer is not None:
                    kind = type_without_path(target)
                    yield OpenFile(int(fd), kind, answer.st_dev, answer.st_ino, None, None)
                continue
            found = known.get(target) or self._types.ask(fd, target)
            if found is not None:
                yield self._with_path(fd, target, *found)

    def _ask(self, fd: str) -> os.stat_result | None:
        # These are on file systems of the kernel's own, which answer at once.
        try:
            return os.stat(fd, dir_fd=self._directory)
        except FileNotFoundError:
            return None  # Closed since the listing.

    def _learn_device(self, fd: str, kind: str, inode: int) -> int | None:
        answer = self._ask(fd)
        # Closed since the listing, perhaps with another file under its number now.
        if answer is None or answer.st_ino != inode or modes.S_IFMT(answer.st_mode) != _LETTERS[kind]:
            return None
        self._device_of[kind] = answer.st_dev
        return answer.st_dev

    def _with_path(self, fd: str, target: str, kind: str, answer: os.stat_result | None) -> OpenFile:
        if answer is None:
            return OpenFile(int(fd), kind, *self._types.place(fd), None, None)
        allocated = answer.st_blocks * 512 if self._types.is_memory(kind, target, answer) else None
        return OpenFile(int(fd), kind, answer.st_dev, answer.st_ino, allocated, None)
