"""Shared memory: what a process maps and what it holds open, each segment once.

RssShmem sees only what is mapped and touched: a DataLoader's queued batches, which live only as FDs on
deleted files, are not in it, and summing it over a tree counts shared pages several times. The union by
(device, inode) with allocated blocks is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from amidiag.model import DevShm, ShmUse
from amidiag.procfs.errors import explain
from amidiag.procfs.fds import FdScan
from amidiag.procfs.mount_table import Mount, leads_to_local, own_root, read_mount_table
from amidiag.procfs.mounts import MemoryDevices
from amidiag.procfs.processes import read_file
from amidiag.procfs.segments import KINDS, Segment, is_our_own, kind_in_memory, kind_of, segment_of

Key = tuple[int, int]
InMemory = Callable[[int], bool]
"""Whether files on a device (`st_dev`) live in memory."""

_WITH_PATH = ("torch", "posix", "tmpfs")


class Holding(NamedTuple):
    """The shared memory of one process, by (device, inode).

    `device_mappings`: shared mappings of device files, whose memory the kernel does not account for.
    """

    segments: Mapping[Key, Segment]
    device_mappings: int


class SharedMapping(NamedTuple):
    """Shared memory in an address space, from `start` to before `end`. `name` is the path, or the kernel's name."""

    key: Key
    kind: str
    name: str
    start: int
    end: int


def read_holding(scan: FdScan, name: str | None = None) -> Holding:
    """What process `scan.pid` maps or holds by FD. Raises ProcessGone, NoPermission.

    Segments that are only mapped and may not be followed have `allocated` None: following
    `/proc/PID/map_files` takes CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)).
    """
    segments = {segment.key: segment for segment in scan.segments}
    data = read_file(scan.pid, "maps", "the memory map", name)
    mappings, devices = parse_maps(data, MemoryDevices(scan.pid, name))
    follower = Follower(scan.pid, name)
    for mapping in mappings:
        if mapping.key not in segments:
            segments[mapping.key] = follower.follow(mapping)
    return Holding(segments, devices)


def parse_maps(data: bytes, in_memory: InMemory | None = None) -> tuple[list[SharedMapping], int]:
    """The first mapping of each segment in `/proc/PID/maps` (proc_pid_maps(5)), and how many are of devices."""
    mappings, devices = all_mappings(data, in_memory)
    found: dict[Key, SharedMapping] = {}
    for mapping in mappings:
        found.setdefault(mapping.key, mapping)
    return list(found.values()), devices


def all_mappings(data: bytes, in_memory: InMemory | None = None) -> tuple[list[SharedMapping], int]:
    """Every mapping of shared memory in `/proc/PID/maps`, and how many distinct devices are mapped.

    `in_memory` (`MemoryDevices`) tells files of a tmpfs other than /dev/shm from those of a disk; of them what
    is mapped MAP_PRIVATE, a library say, is not shared.
    """
    found: list[SharedMapping] = []
    devices: set[str] = set()
    for line in data.splitlines():
        fields = line.split(None, 5)
        if len(fields) < 6:
            continue
        target = fields[5].decode("utf-8", "surrogateescape")
        kind = kind_of(target)
        if kind is None and not fields[1].endswith(b"s"):
            continue
        if kind is None and target.startswith("/dev/"):
            devices.add(target)
            continue
        major, _, minor = fields[3].partition(b":")
        key = os.makedev(int(major, 16), int(minor, 16)), int(fields[4])
        if kind is None:
            if in_memory is None or not in_memory(key[0]) or is_our_own(target):
                continue
            kind = kind_in_memory(target)
        start, _, end = fields[0].partition(b"-")
        found.append(SharedMapping(key, kind, target, int(start, 16), int(end, 16)))
    return found, len(devices)


class Follower:
    """Asks mapped files of one process for their blocks, where this user may."""

    def __init__(self, pid: int, name: str | None = None) -> None:
        self._pid = pid
        self._name = name
        self._mounts: tuple[Sequence[Mount], Mount | None] | None = None

    def follow(self, mapping: SharedMapping) -> Segment:
        """The segment behind a mapping: by its path or as SysV segment where `map_files` is refused."""
        # All of these are memory of the kernel: a stat cannot block, unlike one of any mapped file.
        way = f"/proc/{self._pid}/map_files/{mapping.start:x}-{mapping.end:x}"
        segment = _ask(way, mapping)
        if segment is None and mapping.kind in _WITH_PATH and self._may_walk(mapping.name):
            segment = _ask(f"/proc/{self._pid}/root{mapping.name}", mapping)
        if segment is not None:
            return segment
        allocated = _sysv_bytes(self._pid, mapping.key[1]) if mapping.kind == "sysv" else None
        return Segment(*mapping.key, mapping.kind, mapping.name, None, allocated)

    def _may_walk(self, path: str) -> bool:
        if self._mounts is None:
            self._mounts = read_mount_table(self._pid, self._name), own_root()
        return leads_to_local(path, *self._mounts)


def _ask(way: str, mapping: SharedMapping) -> Segment | None:
    try:
        segment = segment_of(mapping.name, mapping.kind, os.stat(way))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # Unmapped, unlinked, its process ended, or not for this user: then the next way.
    return segment if segment.key == mapping.key else None


def _sysv_bytes(pid: int, shmid: int) -> int | None:
    """Memory and swap of a SysV segment, whose inode is its id (sysvipc(7), `/proc/sysvipc/shm`)."""
    try:
        # The table is that of the reader's IPC namespace: elsewhere the same id is another segment.
        if os.stat(f"/proc/{pid}/ns/ipc").st_ino != os.stat("/proc/self/ns/ipc").st_ino:
            return None
        with open("/proc/sysvipc/shm", "rb") as file:
            rows = [line.split() for line in file]
    except OSError:
        return None  # A kernel without SysV, or no permission: the caller says "lower bound".
    columns = {title: number for number, title in enumerate(rows[0])}
    for row in rows[1:]:
        if int(row[columns[b"shmid"]]) == shmid:
            return int(row[columns[b"rss"]]) + int(row[columns[b"swap"]])
    return None


def unite(holdings: Iterable[Holding]) -> dict[Key, Segment]:
    """All segments of several processes, each once; one process may know the size of what another maps."""
    united: dict[Key, Segment] = {}
    for holding in holdings:
        for key, segment in holding.segments.items():
            known = united.get(key)
            if known is None or known.allocated is None:
                united[key] = segment
    return united


def complete(holding: Holding, united: Mapping[Key, Segment]) -> Holding:
    """The same holding with sizes filled in that another process of the tree knew."""
    segments = {
        key: segment._replace(size=united[key].size, allocated=united[key].allocated)
        for key, segment in holding.segments.items()
    }
    return Holding(segments, holding.device_mappings)


def total(segments: Iterable[Segment]) -> tuple[int, bool]:
    """Allocated bytes of distinct segments, and whether that is only a lower bound."""
    sizes = [segment.allocated for segment in segments]
    return sum(size for size in sizes if size is not None), None in sizes


def use_of(holding: Holding, rss: int | None) -> ShmUse:
    """The figures of one process. "device" is left out where devices are mapped: its bytes are not known."""
    by_kind = dict.fromkeys(KINDS, 0)
    for segment in holding.segments.values():
        by_kind[segment.kind] += segment.allocated or 0
    if holding.device_mappings:
        del by_kind["device"]
    return ShmUse(rss=rss, held=sum(by_kind.values()), by_kind=by_kind)


def dev_shm(pid: int, name: str | None = None) -> DevShm:
    """Size and use of `/dev/shm` as process `pid` sees it. Raises ProcessGone, NoPermission.

    None where there is none, where it has no limit (a tmpfs of size=0), or where it lies on a file
    system that could block.
    """
    if not leads_to_local("/dev/shm", read_mount_table(pid, name), own_root()):
        return DevShm(size=None, used=None)
    try:
        # Never through a link: an absolute one below another root would lead into ours.
        flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(f"/proc/{pid}/root/dev/shm", flags)
        try:
            answer = os.fstatvfs(directory)
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError):
        return DevShm(size=None, used=None)  # A root directory without it (or ended: identity tells).
    except OSError as error:
        raise explain(error, pid, name, "/dev/shm") from error
    if answer.f_blocks == 0:
        return DevShm(size=None, used=None)
    return DevShm(answer.f_blocks * answer.f_frsize, (answer.f_blocks - answer.f_bfree) * answer.f_frsize)
