"""What type of file an FD with a path leads to, without ever asking a file system that could block."""

from __future__ import annotations

import os
import stat as modes

from amidiag.procfs.fdinfo import number_in, read_fdinfo
from amidiag.procfs.mounts import Mounts, read_mounts
from amidiag.procfs.segments import MEMFD, SHM_DIRECTORY, is_our_own, kind_of

DELETED = " (deleted)"

# File systems of the kernel's own, mounted nowhere: the link looks like a path.
_KERNEL_FILES = {"/dmabuf:": "dmabuf", "/secretmem": "secretmem"}
_TYPE_OF_MODE = {
    modes.S_IFREG: "regular",
    modes.S_IFDIR: "directory",
    modes.S_IFCHR: "device",
    modes.S_IFBLK: "block_device",
    modes.S_IFIFO: "fifo",
    modes.S_IFSOCK: "socket",
    modes.S_IFLNK: "symlink",
}

Answer = tuple[str, os.stat_result | None]
"""The type, and what the file system said, None where it was not asked."""


class TypeAsker:
    """Asks about the FDs of one process, of which `directory` is `/proc/PID/fd`.

    Attributes:
        known: answers that hold for every FD with the same link: look here before asking.
        not_asked: how often the answer was "file": on a file system that could block, or is not known here.
    """

    def __init__(self, pid: int, name: str | None, directory: int) -> None:
        self.known: dict[str, Answer] = {}
        self.not_asked = 0
        self._pid = pid
        self._name = name
        self._directory = directory
        self._mounts: Mounts | None = None
        self._own_mounts: Mounts | None = None
        self._in_memory: dict[int, bool] = {}

    def ask(self, fd: str, target: str) -> Answer | None:
        """The answer for an FD with the link `target`, a path; None if it was closed since the listing.

        Raises OSError, ProcessGone, NoPermission.
        """
        for prefix, kernel_type in _KERNEL_FILES.items():
            if target.startswith(prefix):
                return kernel_type, None
        if not self._may_ask(fd, target):
            return self._type_without_asking(target), None
        try:
            answer = os.stat(fd, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        kind = _type_of(target, answer)
        # One path is one file, so that a thousand FDs on it cost one question. Not so for unlinked ones,
        # which may have had the same name one after the other; and every end of a FIFO counts.
        if kind not in ("fifo", "deleted") and not target.endswith(DELETED):
            self.known[target] = kind, answer
        return kind, answer

    def place(self, fd: str) -> tuple[int | None, int | None]:
        """Device and inode of an FD whose file system was not asked, as far as the kernel itself knows them.

        For network and FUSE file systems they are what `stat` would say; where not, they match nothing.
        """
        text = read_fdinfo(self._pid, fd)
        mount_id = number_in(text, b"mnt_id:")
        device = None if mount_id is None else self._table().device_of(mount_id)
        return device, number_in(text, b"\nino:")  # Since Linux 5.14.

    def is_memory(self, kind: str, target: str, answer: os.stat_result) -> bool:
        """Whether a file of that type and link, which was asked, lives in memory only: it counts as shared memory.

        So it does on any tmpfs or the like that the process sees, or amidiag itself does.
        """
        if kind in ("shm", "memfd"):
            return True
        if kind not in ("regular", "deleted") or is_our_own(target):
            return False
        device = answer.st_dev
        known = self._in_memory.get(device)
        if known is None:
            own = self._own_mounts is not None and self._own_mounts.in_memory(device)
            known = self._in_memory[device] = own or self._table().in_memory(device)
        return known

    def _table(self) -> Mounts:
        if self._mounts is None:
            self._mounts = read_mounts(self._pid, self._name)
        return self._mounts

    def _may_ask(self, fd: str, target: str) -> bool:
        """Whether `stat` through the link is safe.

        It is answered by the file system of the open file, which for nfs or fuse may be dead: then it
        never returns. A prefix of the path is no proof of the mount (it may be detached or covered), so
        fdinfo is asked for its id. Memory of the kernel has no such risk.
        """
        if target.startswith(MEMFD):
            return True
        mounts = self._table()
        if target.startswith(SHM_DIRECTORY) and mounts.only_tmpfs_at("/dev/shm"):
            return True
        mount_id = number_in(read_fdinfo(self._pid, fd), b"mnt_id:")
        if mount_id is None or mounts.is_local(mount_id):
            return mount_id is not None
        # Opened in another mount namespace and inherited, as the output of a container: perhaps in ours.
        if self._own_mounts is None:
            self._own_mounts = read_mounts(os.getpid())
        return self._own_mounts.is_local(mount_id)

    def _type_without_asking(self, target: str) -> str:
        if target.startswith("/dev/") and not target.startswith(SHM_DIRECTORY):
            return "device"
        self.not_asked += 1
        return "file"


def _type_of(target: str, answer: os.stat_result) -> str:
    kind = _TYPE_OF_MODE.get(modes.S_IFMT(answer.st_mode), "file")
    if kind != "regular":
        return kind
    shm_kind = kind_of(target)
    if shm_kind is not None:
        return "memfd" if shm_kind == "memfd" else "shm"
    return "deleted" if answer.st_nlink == 0 else kind
