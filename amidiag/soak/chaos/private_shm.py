"""A /dev/shm of the worker's own, in a mount namespace of its own: small, gone with the worker, and ours to fill."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import threading
from functools import cache
from pathlib import Path

_BALLAST = "ballast"
_PIECE, _PAGE = 1 << 22, 4096
_TAKE_EVERY_S = 0.002
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


class Ballast:
    """Takes all the room in the /dev/shm of a process, also what becomes free later, until it is dropped.

    Raises OSError: the process is gone.
    """

    def __init__(self, pid: int) -> None:
        self._path = directory(pid) / _BALLAST
        # Kept open: it reaches this /dev/shm even if the process has ended meanwhile.
        self._file = self._path.open("wb")
        self.bytes = 0
        self._dropped = threading.Event()
        self._take()
        self._thread = threading.Thread(target=self._keep_full, name="ballast", daemon=True)
        self._thread.start()

    def drop(self) -> None:
        """Give it all back."""
        self._dropped.set()
        self._thread.join()
        self._file.truncate(0)
        self._file.close()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            self._path.unlink()

    def _keep_full(self) -> None:
        while not self._dropped.wait(_TAKE_EVERY_S):
            self._take()

    def _take(self) -> None:
        piece = _PIECE
        while piece >= _PAGE:
            try:
                os.posix_fallocate(self._file.fileno(), self.bytes, piece)
            except OSError as e:
                if e.errno != errno.ENOSPC:
                    raise
                piece //= 2
            else:
                self.bytes += piece
