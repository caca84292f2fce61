"""Signs of life of the loader processes, in a small file that they and the worker both map.

So the worker sees what a process does without asking it: one that is stopped or stuck answers nothing. Never in
/dev/shm, which may be full just then.

The file has a slot for each process: 64-bit words (phase, CLOCK_MONOTONIC ns of the last sign of life, requests begun,
requests finished, length of the text), and from byte 64 on the text in which the process says why it ended.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from amidiag.target.mapping import map_shared
from amidiag.target.private_files import lives, private_dir, runtime_dir, start_ticks

STARTING, IDLE, LOADING = range(3)

_SUFFIX = ".beats"
_SLOT, _TEXT_AT = 1024, 64
_PAGE = 4096
_PHASE, _LAST, _BEGUN, _FINISHED, _LENGTH = range(5)

_numbers = itertools.count()


class Beat(NamedTuple):
    """What a loader process shows of itself. `last_ns`: CLOCK_MONOTONIC, 0 before its first sign of life."""

    phase: int
    last_ns: int
    begun: int
    finished: int
    why: str


class Beats:
    """The file, in the worker. Pickled it is the path: a process that was not forked maps it anew.

    A file that cannot be had leaves it inert, and says so in `error`: then the loader goes on without.
    """

    def __init__(self, processes: int) -> None:
        self.error: str | None = None
        self._path: Path | None = None
        self._memory: memoryview | None = None
        try:
            self._make(-(-processes * _SLOT // _PAGE) * _PAGE)
        except (OSError, ImportError) as e:
            self.error = f"{type(e).__name__}: {e}"

    def __getstate__(self) -> dict[str, Any]:
        return {"error": self.error, "_path": self._path, "_memory": None}

    def read(self, number: int) -> Beat | None:
        """What the process of this number shows; None where there is no file."""
        if self._memory is None:
            return None
        words = self._memory[number * _SLOT : (number + 1) * _SLOT].cast("Q")
        text = bytes(self._memory[number * _SLOT + _TEXT_AT :][: min(words[_LENGTH], _SLOT - _TEXT_AT)])
        return Beat(
            phase=words[_PHASE],
            last_ns=words[_LAST],
            begun=words[_BEGUN],
            finished=words[_FINISHED],
            why=text.decode("utf-8", "replace"),
        )

    def take(self, number: int) -> None:
        """In a loader process: the slot of this number is this process's own from now on."""
        global _mine
        if self._path is None:
            return
        if self._memory is None:
            # At EMFILE, or where the file was removed: the worker sees no sign of life, and asks the kernel only.
            with suppress(OSError, ImportError):
                self._map()
        if self._memory is not None:
            _mine = self._memory[number * _SLOT : (number + 1) * _SLOT]
            _set(_PHASE, IDLE)

    def close(self) -> None:
        """Remove the file."""
        path, self._path, self._memory = self._path, None, None
        if path is not None:
            path.unlink(missing_ok=True)

    def _make(self, size: int) -> None:
        directory = Path(private_dir(runtime_dir()))
        _sweep(directory)
        path = directory / f"{os.getpid()}-{start_ticks()}-{next(_numbers)}{_SUFFIX}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._path = path
        try:
            # A sparse file on a full file system would kill whoever writes first.
            os.posix_fallocate(fd, 0, size)
            self._memory = map_shared(fd, size)
        except (OSError, ImportError):
            self.close()
            raise
        finally:
            os.close(fd)

    def _map(self) -> None:
        assert self._path is not None
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._memory = map_shared(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)


_mine: memoryview | None = None


def alive() -> None:
    """This process gets on: an image, or a part of one, has come. Does nothing outside of loader processes."""
    if _mine is not None:
        _set(_LAST, time.monotonic_ns())


@contextmanager
def loading() -> Iterator[None]:
    """Within, this process works on a request."""
    if _mine is None:
        yield
        return
    alive()
    _set(_BEGUN, _mine.cast("Q")[_BEGUN] + 1)
    _set(_PHASE, LOADING)
    try:
        yield
    finally:
        alive()
        _set(_FINISHED, _mine.cast("Q")[_FINISHED] + 1)
        _set(_PHASE, IDLE)


def ends(why: str) -> None:
    """Leave word why this process ends; the first reason stays."""
    if _mine is None or _mine.cast("Q")[_LENGTH]:
        return
    text = why.encode("utf-8", "replace")[: _SLOT - _TEXT_AT]
    _mine[_TEXT_AT : _TEXT_AT + len(text)] = text
    _set(_LENGTH, len(text))


def _set(word: int, value: int) -> None:
    if _mine is not None:
        _mine.cast("Q")[word] = value


def _sweep(directory: Path) -> None:
    """Remove the files of workers that were killed."""
    for path in directory.glob(f"*{_SUFFIX}"):
        owner = path.stem.split("-")
        known = len(owner) == 3 and all(part.isdigit() for part in owner)
        if known and not lives(int(owner[0]), int(owner[1])):
            path.unlink(missing_ok=True)
