"""What bounds a process beside its own FD limit: this machine, its cgroup, its /dev/shm, its namespaces."""

from __future__ import annotations

import os
from collections.abc import Sequence

from amidiag.model import DevShm, Surroundings
from amidiag.procfs.cgroups import cgroup_memory
from amidiag.procfs.errors import NoPermission, ReaderExhausted, explain, gone
from amidiag.procfs.identity import identify, still
from amidiag.procfs.mount_table import Mount, leads_to_local, mount_at, read_mount_table
from amidiag.procfs.shm import dev_shm
from amidiag.procfs.tasks import namespace_pids

_MEMINFO = "/proc/meminfo"
_UNLIMITED = 2**63 - 1  # What systemd sets fs.file-max to.


def surroundings(pid: int, name: str | None = None) -> Surroundings:
    """All that bounds process `pid`. None is what this user may not read, or this kernel does not say.

    `files_max` is None also where the machine has no such limit. Raises ProcessGone, ReaderExhausted,
    NotLinux.
    """
    identity = identify(pid)
    table, own_table = read_mount_table(pid, name), read_mount_table(os.getpid())
    numbers = namespace_pids(pid, name)
    files_open, files_max = _file_nr()
    total, available = _memory(own_table)
    found = Surroundings(
        nr_open=_number(_content("/proc/sys/fs/nr_open")),
        files_open=files_open,
        files_max=files_max,
        memory_total=total,
        memory_available=available,
        cgroup=cgroup_memory(pid, name),
        dev_shm=_dev_shm(pid, name, table, mount_at("/", own_table)),
        dev_shm_mount=_described(mount_at("/dev/shm", table)),
        namespace_pid=numbers[-1] if len(numbers) > 1 else None,
        own_mount_namespace=_is_foreign(table, own_table),
        own_pid_namespace=len(numbers) > 1,
    )
    if not still(identity):
        raise gone(pid, name, was_seen=True)
    return found


def _file_nr() -> tuple[int | None, int | None]:
    """FDs in use and their limit, over the whole machine; root may go beyond it (proc_sys_fs(5))."""
    words = _content("/proc/sys/fs/file-nr").split()
    if len(words) != 3:
        return None, None
    limit = int(words[2])
    # The second was of free ones; since Linux 2.6 it is 0.
    return int(words[0]) - int(words[1]), None if limit >= _UNLIMITED else limit


def _memory(own_table: Sequence[Mount]) -> tuple[int | None, int | None]:
    """MemTotal and MemAvailable, bytes."""
    # Where lxcfs lies over it (FUSE), a dead daemon would block this for ever.
    if not leads_to_local(_MEMINFO, own_table, mount_at("/", own_table)):
        return None, None
    lines = dict(line.partition(b":")[::2] for line in _content(_MEMINFO).splitlines())
    total, available = _number(lines.get(b"MemTotal", b"")), _number(lines.get(b"MemAvailable", b""))
    return None if total is None else total * 1024, None if available is None else available * 1024


def _dev_shm(pid: int, name: str | None, table: Sequence[Mount], own_root: Mount | None) -> DevShm | None:
    if not leads_to_local("/dev/shm", table, own_root):
        return None
    try:
        return dev_shm(pid, name)
    except NoPermission:
        return None


def _described(mount: Mount | None) -> str | None:
    if mount is None:
        return None
    # Of the two lists the first is of this mount, the second of the file system: both have rw or ro.
    options = dict.fromkeys(f"{mount.options},{mount.fs_options}".split(","))
    return f"{mount.fs_type} at {mount.point}: {', '.join(options)}"


def _is_foreign(table: Sequence[Mount], own_table: Sequence[Mount]) -> bool:
    """Whether two processes live in different mount namespaces: a mount is in one of them only.

    Unlike the links in `/proc/PID/ns` every user may ask this.
    """
    numbers = {mount.number for mount in own_table}
    # An empty table is that of a chroot(2) without mounts: nothing in it speaks for another namespace.
    return bool(table) and not any(mount.number in numbers for mount in table)


def _number(text: bytes) -> int | None:
    words = text.split(None, 1)
    return int(words[0]) if words and words[0].isdigit() else None


def _content(file: str) -> bytes:
    """A file about the whole machine; empty where this kernel has none. Raises ReaderExhausted, NotLinux."""
    try:
        with open(file, "rb", buffering=0) as opened:
            return opened.read()
    except FileNotFoundError:
        return b""
    except OSError as error:
        meaning = explain(error, None, None, file)
        if isinstance(meaning, ReaderExhausted):
            raise meaning from error
        return b""  # Masked, as containers do with parts of /proc.
