"""How much the staging directory holds, kept below a bound by all the workers that share it."""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.ingest.staged_files import PARTIAL, files_in, job_directories, oldest_kept

log = logging.getLogger(__name__)

BLOCK = 4096
LOCK_NAME = ".ami-staging-room"
LOCK_LIMIT_S = 5.0
LEFTOVER_S = 600.0

_SUM = struct.Struct("<Q")


class Room:
    """The bytes that the files of a directory take, in blocks of 4096, by their lengths.

    A partial file is made as long as it may become before it is written, and shortened when it is complete:
    so everybody sees what is claimed. The sum is kept in a file, which is locked whenever it is changed.
    Whoever is killed between two steps leaves a sum that is too large, never one too small; it is counted
    anew at each start, and when there is no room by it. Used by several threads; each method but `total`
    waits for the lock, up to `LOCK_LIMIT_S`, and raises OSError.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self.total = 0
        """The sum when it was last looked at, in bytes; asking waits for nothing."""

    def recount(self) -> None:
        """Remove what nobody will use (partial files of dead writers, old files) and count the rest."""
        with self._locked() as fd:
            self._set(fd, self._count(self._max_bytes))

    def claim(self, file: int, size: int) -> bool:
        """Make a partial file (its FD) `size` bytes long. False where the directory may not hold that."""
        with self._locked() as fd:
            more = _blocks(size) - _blocks(os.fstat(file).st_size)
            total = self._get(fd)
            if total + more > self._max_bytes:
                total = self._count(self._max_bytes - more)
                self._set(fd, total)
            if total + more > self._max_bytes:
                return False
            self._set(fd, total + more)
            os.ftruncate(file, size)
            return True

    def complete(self, file: int, size: int, partial: Path, target: Path) -> None:
        """Cut a partial file to what it holds and give it its name. Raises FileNotFoundError if it is gone."""
        with self._locked() as fd:
            freed = _blocks(os.fstat(file).st_size) - _blocks(size) + _size(target)
            os.ftruncate(file, size)
            partial.replace(target)
            self._set(fd, self._get(fd) - freed)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files; those that are gone already are left out."""
        with self._locked() as fd:
            for path in paths:
                freed = _size(path)
                path.unlink(missing_ok=True)
                self._set(fd, self._get(fd) - freed)

    def _get(self, fd: int) -> int:
        data = os.pread(fd, _SUM.size, 0)
        if len(data) < _SUM.size:
            return self._count(self._max_bytes)
        return int(_SUM.unpack(data)[0])

    def _set(self, fd: int, total: int) -> None:
        self.total = max(0, total)
        os.pwrite(fd, _SUM.pack(self.total), 0)

    def _count(self, leave: int) -> int:
        """The sum of the files that stay. Where they are more than `leave`, those that are complete and were
        used by nobody for `LEFTOVER_S` go too, the oldest first."""
        staying = [found for job in job_directories(self._directory) for found in _without_dead(job)]
        total = sum(_blocks(info.st_size) for _, info in staying)
        leftover = time.time() - LEFTOVER_S
        for path, info in sorted(staying, key=lambda found: found[1].st_mtime):
            if total <= leave or info.st_mtime > leftover:
                break
            if path.suffix != PARTIAL:
                path.unlink(missing_ok=True)
                total -= _blocks(info.st_size)
        return total

    @contextmanager
    def _locked(self) -> Iterator[int]:
        if not self._lock.acquire(timeout=LOCK_LIMIT_S):
            raise TimeoutError(f"the lock of {self._directory} was not had in {LOCK_LIMIT_S:.0f} s")
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(self._directory / LOCK_NAME, flags, 0o600)
            try:
                if os.fstat(fd).st_size not in (0, _SUM.size):
                    raise OSError(f"{self._directory / LOCK_NAME} is no file of this worker's: left as it is")
                self._wait_for(fd)
                yield fd
            finally:
                # Closing is not enough: a process that was forked in this moment has the file open too.
                fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)
        finally:
            self._lock.release()

    def _wait_for(self, fd: int) -> None:
        deadline = time.monotonic() + LOCK_LIMIT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"another worker has the lock of {self._directory} for {LOCK_LIMIT_S:.0f} s"
                    ) from None
                time.sleep(0.005)


def _without_dead(job: Path) -> list[tuple[Path, os.stat_result]]:
    """The files of a job, once those that nobody will use are removed; the directory too, if none is left."""
    staying = []
    for path, info in files_in(job):
        if path.suffix == PARTIAL:
            dead = remove_if_abandoned(path)
        elif dead := info.st_mtime < oldest_kept():
            path.unlink(missing_ok=True)
        if not dead:
            staying.append((path, info))
    if not staying:
        remove_if_empty(job)
    return staying


def remove_if_abandoned(partial: Path) -> bool:
    """Remove a partial file that nobody has locked: its writer lives no more."""
    try:
        fd = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Under the lock: a writer that has just made it sees that it has lost it, and makes another.
        partial.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def remove_if_empty(job_directory: Path) -> None:
    """Remove the directory of a job, unless somebody has a file there."""
    with suppress(OSError):
        job_directory.rmdir()


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _size(path: Path) -> int:
    try:
        return _blocks(path.lstat().st_size)
    except FileNotFoundError:
        return 0
