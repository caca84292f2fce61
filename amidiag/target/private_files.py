"""Where a watched program keeps its files, and what makes such a file believable.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
import stat

# Never one that is traced, nor one that the program has replaced (`mock.patch("os.stat")`): these files
# are no business of the program.
from _io import open as _open
from posix import access, getuid, lstat, sysconf

_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")


def runtime_dir() -> str:
    """The private directory: `$AMIDIAG_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/amidiag`, else `amidiag-UID`
    under the temporary directory. Never /dev/shm: that is what we measure."""
    named = os.environ.get("AMIDIAG_RUNTIME_DIR")
    if named:
        return named
    xdg = os.environ.get("XDG_RUNTIME_DIR")
    if xdg and os.path.isdir(xdg):
        return os.path.join(xdg, "amidiag")
    return os.path.join(_temporary_dir(), f"amidiag-{getuid()}")


def _temporary_dir() -> str:
    """As `tempfile.gettempdir` has it. That module loads twenty others into a program that may want none."""
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    for path in (*filter(None, named), *_TEMPORARY):
        if os.path.isdir(path) and access(path, os.W_OK | os.X_OK):
            return os.path.abspath(path)
    return os.path.abspath(os.curdir)


def private_dir(path: str) -> str:
    """Make `path` if it is missing and check that it is ours alone.

    Raises:
        PermissionError: the path is a link, another user's, or open to others.
        OSError: it cannot be made.
    """
    try:
        info = lstat(path)
    except FileNotFoundError:
        os.makedirs(path, mode=0o700, exist_ok=True)
        info = lstat(path)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != getuid() or info.st_mode & 0o077:
        raise PermissionError(f"{path} is not a directory that belongs to this user alone (mode 0700)")
    return path


def start_ticks() -> int:
    """Field 22 of `/proc/self/stat` (proc_pid_stat(5)). Raises OSError."""
    return _state_and_start("self")[1]


def runs(pid: int, since: int) -> bool:
    """Whether a process of this number, that had been started by `since` (boot time in ns), has not ended."""
    try:
        state, start = _state_and_start(str(pid))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # It cannot be asked: better to leave it what it may have.
    return state not in (b"Z", b"X") and start * 1_000_000_000 // sysconf("SC_CLK_TCK") <= since


def lives(pid: int, start: int) -> bool:
    """Whether the process of this number and start (ticks) has not ended."""
    try:
        state, now = _state_and_start(str(pid))
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return state not in (b"Z", b"X") and now == start


def _state_and_start(process: str) -> tuple[bytes, int]:
    # The name in field 2 may hold spaces and brackets, so count from its last bracket.
    with _open(f"/proc/{process}/stat", "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return fields[0], int(fields[19])


def boot_id() -> str:
    """The kernel's id of this boot, 36 characters. Raises OSError."""
    with _open("/proc/sys/kernel/random/boot_id", "rb") as f:
        return f.read().decode("ascii").strip()
