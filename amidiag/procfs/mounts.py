"""Which file systems a process sees, and which of them answer without leaving this machine."""

from __future__ import annotations

import os

from amidiag.procfs.processes import read_file

# File systems whose `stat` of an open file is answered by this kernel alone. Whatever is not named here
# (nfs, cifs, 9p, ceph, fuse.*, ...) asks a server or a daemon, and blocks for as long as that is dead.
_ON_DISK = (
    "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jfs", "nilfs2", "ntfs3",
    "overlay", "reiserfs", "squashfs", "udf", "vfat", "xfs", "zfs",
)  # fmt: skip
_IN_MEMORY = (
    "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs", "efivarfs",
    "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "ramfs", "rootfs", "securityfs", "sysfs", "tmpfs", "tracefs",
)  # fmt: skip
LOCAL = frozenset(_ON_DISK + _IN_MEMORY)
_MEMORY = frozenset(("tmpfs", "ramfs", "hugetlbfs"))


class Mounts:
    """The mount table of one process (`/proc/PID/mountinfo`, proc_pid_mountinfo(5))."""

    def __init__(self, data: bytes) -> None:
        self._type_by_id: dict[int, str] = {}
        self._device_by_id: dict[int, str] = {}
        self._points: list[tuple[str, str]] = []
        for line in data.decode("utf-8", "surrogateescape").splitlines():
            fields, _, tail = line.partition(" - ")
            words, fs_type = fields.split(" ", 5), tail.partition(" ")[0]
            self._type_by_id[int(words[0])] = fs_type
            self._device_by_id[int(words[0])] = words[2]
            self._points.append((words[4], fs_type))

    def is_local(self, mount_id: int) -> bool:
        """Whether a file on that mount can be asked safely.

        False also for an id that is not in the table: a mount that was detached (`umount -l` of a dead
        server) while the file stayed open, or one of another namespace.
        """
        return self._type_by_id.get(mount_id) in LOCAL

    def device_of(self, mount_id: int) -> int | None:
        """`st_dev` of the files on that mount, but for file systems with several (btrfs); None if not in the table."""
        major, _, minor = self._device_by_id.get(mount_id, "").partition(":")
        return os.makedev(int(major), int(minor)) if minor else None

    def in_memory(self, device: int) -> bool:
        """Whether files on that device (`st_dev`) live in memory and swap only: a tmpfs, say."""
        name = f"{os.major(device)}:{os.minor(device)}"
        return any(
            self._type_by_id[mount_id] in _MEMORY for mount_id, of in self._device_by_id.items() if of == name
        )

    def only_tmpfs_at(self, point: str) -> bool:
        """Whether that path is a mount point, and it and all mounts below it are tmpfs."""
        types = {fs for where, fs in self._points if where == point or where.startswith(point + "/")}
        return types == {"tmpfs"}


class MemoryDevices:
    """Tells which devices (`st_dev`) are file systems in memory, as one process sees them.

    The mount table is read when it is first needed. Raises ProcessGone, NoPermission.
    """

    def __init__(self, pid: int, name: str | None = None) -> None:
        self._process = pid, name
        self._mounts: Mounts | None = None

    def __call__(self, device: int) -> bool:
        if self._mounts is None:
            self._mounts = read_mounts(*self._process)
        return self._mounts.in_memory(device)


def read_mounts(pid: int, name: str | None = None) -> Mounts:
    """The mount table as process `pid` sees it. Raises ProcessGone, NoPermission."""
    return Mounts(read_file(pid, "mountinfo", "the mount table", name))
