"""The memory cgroup that binds a process, of version 1 or 2 (cgroups(7), cgroup-v2.rst).

A cgroup is bound by its own limit and by those of all above it. The binding one is that with the least
room left, for there the kernel kills first: a limit of 10 GB that neighbours have nearly filled binds
before an own one of 4 GB. Read from the hierarchy as it is mounted for this reader, else as it is mounted
for the process. What lies above the mount, outside of a container say, is not seen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal, NamedTuple

from amidiag.model import CgroupMemory
from amidiag.procfs.errors import ReaderExhausted, explain
from amidiag.procfs.mount_table import Mount, leads_to_local, mount_at, read_mount_table
from amidiag.procfs.processes import read_file

Version = Literal[1, 2]

# Version 1 has no word for "no limit" but the largest number of pages, in bytes (mm/memcontrol-v1.c).
_UNLIMITED_V1 = 0x7FFFFFFFFFFFF000
_FILES: dict[Version, tuple[str, str]] = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


class Membership(NamedTuple):
    """Where a process is: its memory cgroup, and its cgroup in the hierarchy of version 2, None if there is none.

    Paths are relative to the root of the reader's cgroup namespace, and begin with `/..` where it is
    outside of that (cgroup_namespaces(7)).
    """

    version: Version
    path: str
    unified: str | None


class Place(NamedTuple):
    """A mount table, what to put before a path of it to walk that, and the mount that amidiag itself runs from."""

    prefix: str
    table: Sequence[Mount]
    own_root: Mount | None = None


class _Level(NamedTuple):
    path: str
    limit: int | None
    used: int | None

    @property
    def room(self) -> int | None:
        """Bytes until the limit; None without one."""
        return None if self.limit is None else self.limit - (self.used or 0)


def cgroup_memory(pid: int, name: str | None = None) -> CgroupMemory | None:
    """The memory cgroup that binds a process; None where it has none or it is mounted nowhere.

    With no limit anywhere it is the process's own cgroup, with `limit` None. Raises ProcessGone,
    ReaderExhausted.
    """
    membership = parse_membership(read_file(pid, "cgroup", "the cgroup", name))
    if membership is None:
        return None
    own_table = read_mount_table(os.getpid())
    own_root = mount_at("/", own_table)
    places = [
        Place("", own_table, own_root),
        Place(f"/proc/{pid}/root", read_mount_table(pid, name), own_root),
    ]
    return read_memory(membership, places)


def parse_membership(data: bytes) -> Membership | None:
    """Parse `/proc/PID/cgroup`; None for a kernel without the memory controller and without version 2."""
    by_controllers = {}
    for line in data.decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        by_controllers[controllers] = path.removesuffix(" (deleted)")
    unified = by_controllers.get("")
    for controllers, path in by_controllers.items():
        if "memory" in controllers.split(","):
            return Membership(1, path, unified)
    return None if unified is None else Membership(2, unified, unified)


def read_memory(membership: Membership, places: Sequence[Place]) -> CgroupMemory | None:
    """The binding cgroup, from the first place where the hierarchy can be walked. Raises ReaderExhausted."""
    for place in places:
        levels = _levels(membership, place)
        if levels:
            binding = _binding(levels)
            pressure = _pressure(membership, binding.path, places)
            return CgroupMemory(binding.path, membership.version, binding.limit, binding.used, pressure)
    return None


def _binding(levels: Sequence[_Level]) -> _Level:
    limited = [(level.room, number) for number, level in enumerate(levels) if level.room is not None]
    if limited:
        return levels[min(limited)[1]]
    # In version 2 the lowest need not account for memory: then the next one above does.
    return next((level for level in levels if level.used is not None), levels[0])


def _levels(membership: Membership, place: Place) -> list[_Level]:
    """The cgroup of the process and those above it, as far as they are mounted there."""
    mounted = _mounted(membership.version, membership.path, place)
    if mounted is None or not os.path.isdir("".join(mounted)):
        return []
    top, below = mounted
    root = membership.path[: len(membership.path) - len(below)].rstrip("/")
    levels = []
    while True:
        directory = top + below
        levels.append(_read_level(membership.version, root + below or "/", directory))
        if not below or (membership.version == 1 and not _charges_upwards(directory)):
            return levels
        below = below.rpartition("/")[0]


def _mounted(version: Version, path: str, place: Place) -> tuple[str, str] | None:
    """Where a hierarchy is mounted, and the rest of the way to the cgroup; None where it is not reached."""
    for mount in place.table:
        if version == 1:
            fits = mount.fs_type == "cgroup" and "memory" in mount.fs_options.split(",")
        else:
            fits = mount.fs_type == "cgroup2"
        root = mount.root.rstrip("/")
        below = path.removeprefix(root).rstrip("/")
        if not fits or not path.startswith(root) or below[:1] not in ("", "/"):
            continue
        if below == "/.." or below.startswith("/../"):
            continue  # Outside of what is mounted here.
        if leads_to_local(mount.point, place.table, place.own_root):
            return place.prefix + mount.point, below
    return None


def _read_level(version: Version, path: str, directory: str) -> _Level:
    limit_file, used_file = _FILES[version]
    limit = _number(f"{directory}/{limit_file}")
    if version == 1 and limit is not None and limit >= _UNLIMITED_V1:
        limit = None
    return _Level(path, limit, _number(f"{directory}/{used_file}"))


def _charges_upwards(directory: str) -> bool:
    """Whether memory of a cgroup of version 1 counts in the one above too: always since Linux 5.11."""
    return _number(f"{os.path.dirname(directory)}/memory.use_hierarchy") != 0


def _pressure(membership: Membership, path: str, places: Sequence[Place]) -> float | None:
    """Share of the last 10 seconds in which some task of the binding cgroup waited for memory.

    Only version 2 accounts for it. With version 1 it is that of the process's cgroup of version 2, where
    the two hierarchies are used side by side; of the root cgroup it is the machine's.
    """
    where = path if membership.version == 2 else membership.unified
    if where is None or (where == "/" and path != "/"):
        return None
    for place in places:
        mounted = _mounted(2, where, place)
        pressure = None if mounted is None else _pressure_in("".join(mounted) + "/memory.pressure")
        if pressure is not None:
            return pressure
    return _pressure_in("/proc/pressure/memory") if where == "/" else None


def _pressure_in(file: str) -> float | None:
    # "some avg10=1.53 avg60=...": per cent.
    _, found, rest = (_content(file) or b"").partition(b"some avg10=")
    return float(rest.split(None, 1)[0]) / 100 if found else None


def _number(file: str) -> int | None:
    words = (_content(file) or b"").split()
    return int(words[0]) if words and words[0].isdigit() else None  # "max" is no limit.


def _content(file: str) -> bytes | None:
    """A file of the kernel; None where it is not there or says nothing. Raises ReaderExhausted."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    except OSError as error:
        meaning = explain(error, None, None, file)
        if isinstance(meaning, ReaderExhausted):
            raise meaning from error
        return None  # Not on this kernel, gone meanwhile, or pressure switched off (psi=0).
