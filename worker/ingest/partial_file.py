"""A file of the staging directory while it arrives: locked by its writer, bounded, complete by rename."""

from __future__ import annotations

import fcntl
import io
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from worker.ingest.staged_files import PARTIAL, prepare
from worker.ingest.staging_room import Room

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_TRIES = 8
_open_here: set[PartialFile] = set()


class NoRoomError(Exception):
    """The directory may not hold `wanted` bytes of this file; with the file, `freed` bytes are given back."""

    def __init__(self, wanted: int, freed: int) -> None:
        super().__init__(f"no room for {wanted} bytes")
        self.wanted = wanted
        self.freed = freed


class UnwantedError(Exception):
    """Nobody wants this file any more."""


class PartialFile(io.FileIO):
    """Becomes `target` by `complete`; is removed at the end of the `with` block otherwise.

    A server need not say how long a body is, so room is claimed ahead: for `first` bytes, then in steps of
    `step`; where there is less, for no more than what has come. Every method may raise OSError, if the disk
    fails.
    """

    def __init__(
        self, room: Room, target: Path, *, first: int, step: int, wanted: Callable[[], bool] = lambda: True
    ) -> None:
        self._room = room
        self._target = target
        self._first = first
        self._step = step
        self._wanted = wanted
        self._claimed = 0
        self.written = 0
        self.path, fd = _make(target)
        super().__init__(fd, "wb")
        _open_here.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.path.exists():
                self._room.remove([self.path])
        finally:
            # Where the lock was not to be had: the next count finds the sum too large, and mends it.
            with suppress(OSError):
                self.path.unlink(missing_ok=True)
            self.close()

    def close(self) -> None:
        """Close the file; its lock ends with it."""
        _open_here.discard(self)
        super().close()

    def claim(self, size: int) -> None:
        """Make sure of room for `size` bytes.

        Raises:
            NoRoomError: there is none now.
        """
        if not self._may_claim(size):
            raise NoRoomError(size, self._claimed)

    def _may_claim(self, size: int) -> bool:
        if size > self._claimed:
            if not self._room.claim(self.fileno(), size):
                return False
            self._claimed = size
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`.

        Raises:
            NoRoomError: it does not fit in.
            UnwantedError: the file is not wanted any more.
        """
        if not self._wanted():
            raise UnwantedError
        rest = memoryview(data).cast("B")
        size, length = self.written + len(rest), len(rest)
        ahead = self._claimed + self._step if self._claimed else self._first
        if size > self._claimed and not self._may_claim(max(size, ahead)):
            self.claim(size)
        while rest:
            rest = rest[super().write(rest) :]
        self.written = size
        return length

    def truncate(self, size: int | None = None, /) -> int:
        """Begin anew, after `seek(0)`. The room stays claimed; `complete` cuts the file to what is written."""
        self.written = 0
        return 0

    def complete(self) -> None:
        """Give the file its name. It is read by others from now on."""
        if not self._wanted():
            raise UnwantedError
        self._room.complete(self.fileno(), self.written, self.path, self._target)


def _make(target: Path) -> tuple[Path, int]:
    """A new partial file, locked. Others may remove the directory while it is empty, and the file while it
    is not yet locked."""
    for _ in range(_TRIES):
        path = target.with_name(f"{target.stem}.{secrets.token_hex(8)}{PARTIAL}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            prepare(target.parent.parent)
            prepare(target.parent)
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            continue
        if _lock(fd, path):
            return path, fd
        os.close(fd)
    raise FileNotFoundError(f"{target.parent} is removed again and again")


def _lock(fd: int, path: Path) -> bool:
    """Lock a new file. False where somebody took it for abandoned before that."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return os.fstat(fd).st_nlink > 0


def _let_go() -> None:
    """A forked child must not keep the disk blocks of files that its parent removes, nor their locks."""
    for file in list(_open_here):
        file.close()


os.register_at_fork(after_in_child=_let_go)
