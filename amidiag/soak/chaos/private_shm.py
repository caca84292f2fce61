"""A /dev/shm of the worker's own, in a mount namespace of its own: small, gone with the worker, and ours to fill."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

_BALLAST = "ballast"
_MOUNT = 'mount -t tmpfs -o mode=1777,size="$0" chaos /dev/shm && exec "$@"'


class NoNamespaceError(Exception):
    """This host does not let us mount anything: neither as root nor in a user namespace. The text says why."""


def within(size: int) -> tuple[str, ...]:
    """The words before a command that give it a /dev/shm of `size` bytes. Raises NoNamespaceError."""
    return (*_unshare(), "sh", "-c", _MOUNT, str(size))


@cache
def _unshare() -> tuple[str, ...]:
    """How a mount namespace is had here: as root, or as the root of a user namespace."""
    program = shutil.which("unshare")
    if program is None:
        raise NoNamespaceError("a /dev/shm of its own for the worker needs unshare(1), of util-linux")
    said = ""
    for words in ((), ("--user", "--map-root-user")):
        command = (program, *words, "--mount", "--propagation", "private", "--")
        tried = subprocess.run(
            [*command, "sh", "-c", _MOUNT, "1048576", "true"], capture_output=True, text=True, check=False
        )
        if tried.returncode == 0:
            return command
        said = tried.stderr.strip()
    raise NoNamespaceError(f"this host gives the worker no /dev/shm of its own: {said}")


def directory(pid: int) -> Path:
    """The /dev/shm that a process sees, as we see it."""
    return Path(f"/proc/{pid}/root/dev/shm")


def fill(pid: int) -> int:
    """Take all the room that is left in the /dev/shm of a process. How many bytes that were. Raises OSError."""
    path = directory(pid) / _BALLAST
    taken, piece = 0, 1 << 22
    with path.open("wb") as file:
        while piece >= 4096:
            try:
                os.posix_fallocate(file.fileno(), taken, piece)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                piece //= 2
            else:
                taken += piece
    return taken


def empty(pid: int) -> None:
    """Give back what `fill` took; where the process is gone, its /dev/shm is too."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        (directory(pid) / _BALLAST).unlink()
