"""Where a watched program keeps its files, and what makes such a file believable.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile

# Never one that is traced: these files are no business of the program.
from _io import open as _open


def runtime_dir() -> str:
    """The private directory: `$AMIDIAG_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/amidiag`, else `amidiag-UID`
    under the temporary directory. Never /dev/shm: that is what we measure."""
    named = os.environ.get("AMIDIAG_RUNTIME_DIR")
    if named:
        return named
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isdir(xdg):
        return os.path.join(xdg, "amidiag")
    return os.path.join(tempfile.gettempdir(), f"amidiag-{os.getuid()}")


def private_dir(path: str) -> str:
    """Make `path` if it is missing and check that it is ours alone.

    Raises:
        PermissionError: the path is a link, another user's, or open to others.
        OSError: it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o700)
    info = os.lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory that belongs to this user alone (mode 0700)")
    return path


def start_ticks() -> int:
    """Field 22 of `/proc/self/stat` (proc_pid_stat(5)). Raises OSError."""
    # The name in field 2 may hold spaces and brackets, so count from its last bracket.
    with _open("/proc/self/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[19])


def boot_id() -> str:
    """The kernel's id of this boot, 36 characters. Raises OSError."""
    with _open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()
