"""The status page: a small mapped file in which a program says what it does.

It is written by the program itself with plain memory stores, and read from outside without the
program's help: at EMFILE, hung, stopped or dead. Standard library only, safe on Python 3.10, and
never raises into the program: a page that cannot be made is inert, and says why in `error`.

Layout, in native unsigned 64-bit words (one aligned store each, so no counter is ever torn):

    0 magic   1 version   2 size of the file   3 PID   4 start ticks   5 text sequence (odd while written)
    6 text length   7 state   8 last progress, CLOCK_MONOTONIC ns   9 reserved
    10 polls  11 jobs  12 loaders  13 batches  14 images  15 posts   16..20 boot id, ASCII
    from byte 512: JSON text with "settings" and "caches"
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import stat
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any

MAGIC = b"AMIDIAG\0"
VERSION = 1
PAGE_SIZE = 16384
TEXT_AT = 512
SUFFIX = ".status"
COUNTERS = ("polls", "jobs", "loaders", "batches", "images", "posts")
STATES = ("starting", "polling", "idle", "job", "batch", "posting", "draining", "stopped")

W_MAGIC, W_VERSION, W_SIZE, W_PID, W_START, W_TEXT_SEQ, W_TEXT_LEN, W_STATE, W_PROGRESS = range(9)
W_COUNTERS = 10
W_BOOT_ID = 16
_COUNTER_WORD = {name: W_COUNTERS + i for i, name in enumerate(COUNTERS)}
_STATE_CODE = {name: i for i, name in enumerate(STATES)}


def runtime_dir() -> str:
    """The private directory for status pages: `$AMIDIAG_RUNTIME_DIR`, `$XDG_RUNTIME_DIR/amidiag`,
    else `amidiag-UID` under the temporary directory. Never /dev/shm: that is what we measure."""
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


def _start_ticks() -> int:
    # Field 22; the name in field 2 may hold spaces and brackets, so count from its last bracket.
    with open("/proc/self/stat", "rb") as f:
        return int(f.read().rpartition(b")")[2].split()[19])


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def _sweep(directory: str) -> None:
    """Remove the pages that dead processes of this user left more than a week ago."""
    limit = time.time() - 7 * 86400
    with os.scandir(directory) as entries:
        for entry in entries:
            pid = entry.name.split("-")[0]
            if not (entry.name.endswith(SUFFIX) and pid.isdigit()) or os.path.exists("/proc/" + pid):
                continue
            # Another program of ours may sweep at the same moment.
            with contextlib.suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)


class StatusPage:
    """The writer's side. Made by `create`; every method is a no-op on an inert page."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.error: str | None = None
        self._map: mmap.mmap | None = None
        self._words: memoryview | None = None
        self._lock = threading.Lock()
        self._text: dict[str, Any] = {"settings": {}, "caches": {}}

    @classmethod
    def create(cls, settings: Mapping[str, Any] | None = None) -> StatusPage:
        """Map a page for this process. `settings` must not hold secrets: it is stored readable by the owner.

        Any failure (no space, no directory) leaves an inert page whose `error` says why: a worker
        must not stop because it cannot be watched.
        """
        page = cls()
        page._text["settings"] = dict(settings or {})
        try:
            page._open()
        except (OSError, ValueError) as e:
            page.error = f"status page not available: {e}"
            page._release()
            return page
        page.state("starting")
        # A forked loader shares the mapping; only the process that the page names may write.
        ref = weakref.ref(page)
        os.register_at_fork(after_in_child=lambda: _forget_in_child(ref))
        return page

    def _open(self) -> None:
        directory = private_dir(runtime_dir())
        _sweep(directory)
        start = _start_ticks()
        path = os.path.join(directory, f"{os.getpid()}-{start}{SUFFIX}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            # A sparse file on a full file system would kill the program with SIGBUS at its first write.
            os.posix_fallocate(fd, 0, PAGE_SIZE)
            self._map = mmap.mmap(fd, PAGE_SIZE)
        except OSError:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self.path = path
        self._words = words = memoryview(self._map).cast("Q")
        self._map[W_BOOT_ID * 8 : W_BOOT_ID * 8 + 40] = _boot_id().encode().ljust(40, b"\0")[:40]
        words[W_VERSION] = VERSION
        words[W_SIZE] = PAGE_SIZE
        words[W_PID] = os.getpid()
        words[W_START] = start
        self._write_text()
        # Last: a page without its magic is not yet one.
        self._map[0:8] = MAGIC

    def count(self, name: str, by: int = 1) -> None:
        """Add `by` to the counter `name` (one of `COUNTERS`) and note the progress."""
        if self._words is None:
            return
        with self._lock:
            self._words[_COUNTER_WORD[name]] += by
        self.progress()

    def state(self, name: str) -> None:
        """Say what the program does now (one of `STATES`) and note the progress."""
        if self._words is not None:
            self._words[W_STATE] = _STATE_CODE[name]
            self.progress()

    def progress(self) -> None:
        """Note that the program is alive and getting on."""
        if self._words is not None:
            self._words[W_PROGRESS] = time.monotonic_ns()

    def caches(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        """Publish the registered caches: name → {"entries": n, "bytes": n}."""
        self._text["caches"] = {name: dict(size) for name, size in sizes.items()}
        if self._words is not None:
            with self._lock:
                self._write_text()

    def _write_text(self) -> None:
        if self._words is None or self._map is None:
            return
        text = json.dumps(self._text, separators=(",", ":"), default=str).encode()
        if len(text) > PAGE_SIZE - TEXT_AT:
            text = json.dumps({"settings": {}, "caches": {}, "truncated": True}).encode()
        self._words[W_TEXT_SEQ] += 1
        self._map[TEXT_AT : TEXT_AT + len(text)] = text
        self._words[W_TEXT_LEN] = len(text)
        self._words[W_TEXT_SEQ] += 1

    def close(self) -> None:
        """On a clean exit: say so, and remove the file. A killed program leaves it, for the post-mortem."""
        if self._words is None:
            return
        self.state("stopped")
        self._release()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def _release(self) -> None:
        words, self._words = self._words, None
        if words is not None:
            words.release()
        if self._map is not None:
            self._map.close()
            self._map = None


def _forget_in_child(ref: weakref.ref[StatusPage]) -> None:
    page = ref()
    if page is not None:
        page._release()
