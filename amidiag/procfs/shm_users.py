"""Who maps or holds given pieces of shared memory: one pass over every process of the machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from amidiag.procfs.errors import explain
from amidiag.procfs.fds import open_directory, read_links
from amidiag.procfs.file_types import DELETED, TypeAsker
from amidiag.procfs.processes import all_pids, can_hold
from amidiag.procfs.segments import kind_of
from amidiag.procfs.shm import Key

INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_ROUNDS = 4


@dataclass(slots=True)
class Users:
    """PIDs by (device, inode), in the order of PIDs.

    `unreadable`: processes that could not be looked at; what they map or hold is missing.
    """

    mapped_by: dict[Key, list[int]] = field(default_factory=dict)
    held_by: dict[Key, list[int]] = field(default_factory=dict)
    unreadable: list[int] = field(default_factory=list)

    def has(self, key: Key) -> bool:
        """Whether any process that could be read maps it or holds it."""
        return key in self.mapped_by or key in self.held_by

    @property
    def sees_all(self) -> bool:
        """Whether no process of the machine could be missing."""
        in_container = os.readlink("/proc/self/ns/pid") != INITIAL_PID_NAMESPACE
        # A /proc mounted with hidepid shows only root everything.
        return not (self.unreadable or in_container or os.geteuid() != 0)


def find_users(wanted: Mapping[Key, str]) -> Users:
    """Who maps or holds each piece of shared memory `wanted`, given with its name as the kernel has it.

    A process that ends meanwhile is left out. Raises ReaderExhausted, NotLinux.
    """
    search = _Search(wanted)
    if wanted:
        search.run()
    return search.users


class _Search:
    """One pass. FDs are recognised by the last part of their path, which is the same from every mount."""

    def __init__(self, wanted: Mapping[Key, str]) -> None:
        self.users = Users()
        self._wanted = wanted
        self._last_parts = {_last_part(name) for name in wanted.values()}
        self._devices = {b" %02x:%02x " % (os.major(device), os.minor(device)) for device, _ in wanted}

    def run(self) -> None:
        """Look again at what was started meanwhile: a fork may have moved an FD into a process just born."""
        seen: set[int] = set()
        for _ in range(_ROUNDS):
            pids = sorted(pid for pid in all_pids() if pid not in seen)
            if not pids:
                return
            seen.update(pids)
            for pid in pids:
                self._visit(pid)

    def _visit(self, pid: int) -> None:
        try:
            mapped = self._mapped(pid)
            held = self._held(pid)
        except (FileNotFoundError, ProcessLookupError):
            return  # It has ended: it maps and holds nothing any more.
        except PermissionError:
            if can_hold(pid):
                self.users.unreadable.append(pid)
            return
        except OSError as error:
            raise explain(error, pid, None, "the shared memory") from error
        for key in mapped:
            self.users.mapped_by.setdefault(key, []).append(pid)
        for key in held:
            self.users.held_by.setdefault(key, []).append(pid)

    def _mapped(self, pid: int) -> set[Key]:
        with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
            data = file.read()
        if not any(device in data for device in self._devices):
            return set()
        return {key for key in _keys_in(data) if key in self._wanted}

    def _held(self, pid: int) -> set[Key]:
        directory = open_directory(pid)
        try:
            links = [link for link in read_links(directory) if self._may_be(link[1])]
            return set(self._keys_of(pid, directory, links)) if links else set()
        finally:
            os.close(directory)

    def _may_be(self, target: str) -> bool:
        return target[0] == "/" and _last_part(target) in self._last_parts

    def _keys_of(self, pid: int, directory: int, links: Collection[tuple[str, str]]) -> Iterator[Key]:
        asker = TypeAsker(pid, None, directory)
        for fd, target in links:
            found = asker.ask(fd, target)
            if found is None:
                continue  # Closed since the listing.
            _, answer = found
            if answer is not None:
                key = answer.st_dev, answer.st_ino
                if key in self._wanted:
                    yield key
                continue
            # On a file system that may not be asked: what could be the wanted one counts as it.
            inode = asker.place(fd)[1]
            yield from (
                key
                for key, name in self._wanted.items()
                if _last_part(name) == _last_part(target) and inode in (None, key[1])
            )


def _last_part(name: str) -> str:
    # What has no directory of its own (`/memfd:x`, `/SYSV…`) is named in full.
    plain = name.removesuffix(DELETED)
    return plain if kind_of(name) in ("memfd", "sysv", "anonymous") else plain.rpartition("/")[2]


def _keys_in(data: bytes) -> Iterator[Key]:
    """(device, inode) of everything mapped that has a name (proc_pid_maps(5))."""
    for line in data.splitlines():
        fields = line.split(None, 5)
        if len(fields) == 6:
            major, _, minor = fields[3].partition(b":")
            yield os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
