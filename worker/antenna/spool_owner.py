"""A directory of the spool that belongs to one process, for as long as that lives."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path

_LOCK = "lock"
_TRIES = 8

# Of this process. Its own locks are no obstacle to itself, and closing a second FD of one would end it.
_held: set[Path] = set()


class OwnDirectory:
    """A directory locked by this process. With the end of the process, whichever way, it is anybody's.

    Locked with fcntl(2) and not with flock(2): such a lock is not inherited by a fork, so no loader process that
    outlives the worker holds it; and unlike a PID it means the same in every container that shares the spool.
    """

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            os.close(lock)
            raise
        _held.add(path)

    @classmethod
    def make(cls, parent: Path) -> OwnDirectory:
        """A new one. Raises OSError."""
        for _ in range(_TRIES):
            path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
            lock = _locked(path)
            # Somebody may have taken it for one of a dead worker, in the moment before it was locked.
            if lock is not None:
                return cls(path, lock)
        raise OSError(f"no directory could be had in {parent}: others take them")

    @classmethod
    def claim(cls, path: Path) -> OwnDirectory | None:
        """That of a process that has ended; None where it lives, or another was quicker. Raises OSError."""
        if path in _held:
            return None
        lock = _locked(path)
        return None if lock is None else cls(path, lock)

    def is_gone(self) -> bool:
        """Whether somebody has removed it."""
        return not self.path.exists()

    def release(self) -> None:
        """Give it up. It is removed where it is empty, else it is left to the next worker."""
        _held.discard(self.path)
        with suppress(OSError):
            if [path.name for path in self.path.iterdir()] == [_LOCK]:
                (self.path / _LOCK).unlink()
                self.path.rmdir()
        os.close(self.fd)
        os.close(self._lock)


def _locked(path: Path) -> int | None:
    """The FD of the lock of a directory, once we have it; None where another has it."""
    try:
        fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Removed between the two steps, by the one who had it before.
        if os.fstat(fd).st_nlink:
            return fd
    except (BlockingIOError, PermissionError):
        pass
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None
