"""The mount table of a process with all that is known of each mount; `mounts.Mounts` is the quick look."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from amidiag.procfs.mounts import LOCAL
from amidiag.procfs.processes import read_file


class Mount(NamedTuple):
    """One line of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

    `root` is the directory of the file system that is mounted at `point`; `options` are those of the
    mount, `fs_options` those of the file system.
    """

    number: int
    root: str
    point: str
    fs_type: str
    options: str
    fs_options: str


def read_mount_table(pid: int, name: str | None = None) -> Sequence[Mount]:
    """All mounts that process `pid` sees. Raises ProcessGone, ReaderExhausted."""
    return parse_mount_table(read_file(pid, "mountinfo", "the mount table", name))


def own_root() -> Mount | None:
    """The mount that amidiag itself runs from. Raises ReaderExhausted."""
    return mount_at("/", read_mount_table(os.getpid()))


@lru_cache(maxsize=8)  # One look asks for the same tables, nearly always one and the same, several times.
def parse_mount_table(data: bytes) -> Sequence[Mount]:
    """Parse `/proc/PID/mountinfo`."""
    return tuple(_parse(line) for line in data.decode("utf-8", "surrogateescape").splitlines())


def _parse(line: str) -> Mount:
    fields, _, tail = line.partition(" - ")
    number, _, _, root, point, options = fields.split(" ")[:6]
    fs_type, _, rest = tail.partition(" ")
    return Mount(int(number), _plain(root), _plain(point), fs_type, options, rest.rpartition(" ")[2])


def _plain(path: str) -> str:
    # Space, tab, newline and backslash are written in octal (fs/proc_namespace.c, mangle).
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path) if "\\" in path else path


def mount_at(path: str, table: Sequence[Mount]) -> Mount | None:
    """The mount that a path leads to: the topmost at the longest part of it that is a mount point."""
    # Of several at one point the last is on top.
    return _topmost(path, {mount.point: mount for mount in table})


def leads_to_local(path: str, table: Sequence[Mount], own_root: Mount | None = None) -> bool:
    """Whether a walk along that path can never block: every file system on the way is this kernel's own.

    `own_root` is the mount that amidiag itself runs from, which diskless machines have on NFS: to depend
    on it is nothing new.
    """
    # Once for each mount point, the last on top: the path is walked for every file.
    by_point = {mount.point: mount for mount in table}
    mounts = [_topmost(part, by_point) for part in _upwards(path)]
    return all(
        mount is not None
        and (mount.fs_type in LOCAL or (own_root is not None and mount.number == own_root.number))
        for mount in mounts
    )


def only_tmpfs_at(point: str, table: Sequence[Mount]) -> bool:
    """Whether that path is a mount point, and it and all mounts below it are tmpfs."""
    types = {mount.fs_type for mount in table if mount.point == point or mount.point.startswith(point + "/")}
    return types == {"tmpfs"}


def _topmost(path: str, by_point: Mapping[str, Mount]) -> Mount | None:
    return next((by_point[part] for part in reversed(_upwards(path)) if part in by_point), None)


def _upwards(path: str) -> list[str]:
    """`/`, `/dev`, `/dev/shm` for `/dev/shm`."""
    words = [word for word in path.split("/") if word]
    return ["/" + "/".join(words[:number]) for number in range(len(words) + 1)]
