"""The status page: a small mapped file in which a program says what it does.

It is written by the program itself with plain memory stores, and read from outside without the
program's help: at EMFILE, hung, stopped or dead. Standard library only, safe on Python 3.10, and
never raises into the program, whatever it is given: a page that cannot be made is inert, and the
first thing that went wrong stands in `error`.

Layout, in native unsigned 64-bit words (one aligned store each, so no counter is ever torn):

    0 magic   1 version   2 size of the file   3 PID   4 start ticks   5 text sequence (odd while written)
    6 text length   7 state   8 last progress, CLOCK_MONOTONIC ns   9 reserved
    10 polls  11 jobs  12 loaders  13 batches  14 images  15 posts   16..20 boot id, ASCII
    from byte 512: JSON text with "settings", "caches" and "health" (which pages of older writers lack)
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from .private_files import boot_id, private_dir, runtime_dir, start_ticks

MAGIC = b"AMIDIAG\0"
VERSION = 1
PAGE_SIZE = 16384
TEXT_AT = 512
SUFFIX = ".status"
COUNTERS = ("polls", "jobs", "loaders", "batches", "images", "posts")
STATES = ("starting", "polling", "idle", "job", "batch", "posting", "draining", "stopped")
LONGEST_WHY = 500

W_MAGIC, W_VERSION, W_SIZE, W_PID, W_START, W_TEXT_SEQ, W_TEXT_LEN, W_STATE, W_PROGRESS = range(9)
W_COUNTERS = 10
W_BOOT_ID = 16
_COUNTER_WORD = {name: W_COUNTERS + i for i, name in enumerate(COUNTERS)}
_STATE_CODE = {name: i for i, name in enumerate(STATES)}


def _sweep(directory: str) -> None:
    """Remove the pages that dead processes of this user left more than a week ago."""
    limit = time.time() - 7 * 86400
    with os.scandir(directory) as entries:
        for entry in entries:
            pid = entry.name.split("-")[0]
            if not (entry.name.endswith(SUFFIX) and pid.isdigit()) or os.path.exists("/proc/" + pid):
                continue
            # A courtesy, and another program of ours may sweep at the same moment.
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)


class _Memory:
    """The mapped file, seen as bytes and as words."""

    def __init__(self, fd: int) -> None:
        self.bytes = mmap.mmap(fd, PAGE_SIZE)
        self.words = memoryview(self.bytes).cast("Q")

    def write_text(self, text: bytes) -> None:
        """Replace the JSON text; its sequence number is odd meanwhile."""
        # Not `+= 1`: a writing that Ctrl-C has cut short left an odd number behind.
        writing = self.words[W_TEXT_SEQ] | 1
        self.words[W_TEXT_SEQ] = writing
        self.bytes[TEXT_AT : TEXT_AT + len(text)] = text
        self.words[W_TEXT_LEN] = len(text)
        self.words[W_TEXT_SEQ] = writing + 1

    def progress(self) -> None:
        self.words[W_PROGRESS] = time.monotonic_ns()

    def release(self) -> None:
        self.words.release()
        self.bytes.close()


class StatusPage:
    """The writer's side. Made by `create`; every method is a no-op on an inert page.

    No method raises or blocks, from whatever thread, signal handler or forked child it is called.
    `error` is the first thing that went wrong, None as long as nothing did.
    """

    def __init__(self) -> None:
        self.path: str | None = None
        self.error: str | None = None
        self._memory: _Memory | None = None
        self._settings = "{}"
        self._sizes = "{}"
        self._health: dict[str, Any] = {"ok": True, "why": None, "since": time.time()}
        self._pid = os.getpid()
        # Reentrant: a signal handler may write while its own thread is writing.
        self._lock = threading.RLock()

    @classmethod
    def create(cls, settings: Mapping[str, Any] | None = None) -> StatusPage:
        """Map a page for this process. `settings` must not hold secrets: it is stored readable by the owner.

        Any failure (no space, no directory, settings that JSON cannot hold) leaves an inert page and no
        file: a worker must not stop because it cannot be watched.
        """
        page = cls()
        page._guarded(page._open, settings)
        if page.error is not None:
            page.error = f"status page not available: {page.error}"
            page._guarded(page._discard)
        return page

    def _open(self, settings: Mapping[str, Any] | None) -> None:
        self._settings = _json(dict(settings or {}))
        directory = private_dir(runtime_dir())
        _sweep(directory)
        start = start_ticks()
        path = os.path.join(directory, f"{self._pid}-{start}{SUFFIX}")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self.path = path
        try:
            # A sparse file on a full file system would kill the program with SIGBUS at its first write.
            os.posix_fallocate(fd, 0, PAGE_SIZE)
            memory = _Memory(fd)
        finally:
            os.close(fd)
        self._fill(memory, start)
        # A forked loader shares the mapping; only the process that the page names may write.
        ref = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget_in_child(ref))
        self._memory = memory

    def _fill(self, memory: _Memory, start: int) -> None:
        words = memory.words
        memory.bytes[W_BOOT_ID * 8 : W_BOOT_ID * 8 + 40] = boot_id().encode().ljust(40, b"\0")[:40]
        words[W_VERSION] = VERSION
        words[W_SIZE] = PAGE_SIZE
        words[W_PID] = self._pid
        words[W_START] = start
        memory.write_text(self._text())
        words[W_STATE] = _STATE_CODE["starting"]
        memory.progress()
        # Last: a page without its magic is not yet one.
        memory.bytes[0:8] = MAGIC

    def count(self, name: str, by: int = 1) -> None:
        """Add `by` to the counter `name` (one of `COUNTERS`) and note the progress."""
        self._write(self._count, name, by)

    def state(self, name: str) -> None:
        """Say what the program does now (one of `STATES`) and note the progress."""
        self._write(self._state, name)

    def progress(self) -> None:
        """Note that the program is alive and getting on."""
        self._write(_Memory.progress)

    def caches(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        """Publish the registered caches: name → {"entries": n, "bytes": n}."""
        if self._is_ours():
            self._guarded(self._caches, sizes)

    def health(self, ok: bool, why: str | None = None) -> None:
        """Say whether the program can do its work, else why not. As cheap as a comparison where it is as before."""
        if self._is_ours():
            self._guarded(self._say_health, ok, why)

    def read(self) -> dict[str, Any] | None:
        """What the page says now, for the program itself; None on an inert page.

        Keys: "state", "progress_age" (seconds), "counters", "caches", "health" ("ok", "why", "since" in Unix time).
        """
        found: dict[str, Any] = {}
        if self._is_ours():
            self._guarded(self._locked, self._read, found)
        return found or None

    def close(self) -> None:
        """On a clean exit: say so, and remove the file. A killed program leaves it, for the post-mortem."""
        self._write(self._close)

    def _count(self, memory: _Memory, name: str, by: int) -> None:
        memory.words[_COUNTER_WORD[name]] += by
        memory.progress()

    def _state(self, memory: _Memory, name: str) -> None:
        memory.words[W_STATE] = _STATE_CODE[name]
        memory.progress()

    def _caches(self, sizes: Mapping[str, Mapping[str, int]]) -> None:
        # The caller's own mappings may block: never under the lock.
        text = _json({name: dict(size) for name, size in sizes.items()})
        self._locked(self._set_sizes, text)

    def _set_sizes(self, memory: _Memory, sizes: str) -> None:
        self._sizes = sizes
        memory.write_text(self._text())

    def _say_health(self, ok: bool, why: str | None) -> None:
        text = None if ok else str(why or "not said why")[:LONGEST_WHY]
        self._locked(self._set_health, bool(ok), text)

    def _set_health(self, memory: _Memory, ok: bool, why: str | None) -> None:
        before = self._health
        if (before["ok"], before["why"]) == (ok, why):
            return
        # What is wrong may change its words: it began when the first of them was said.
        since = before["since"] if before["ok"] == ok else time.time()
        self._health = {"ok": ok, "why": why, "since": since}
        memory.write_text(self._text())

    def _read(self, memory: _Memory, found: dict[str, Any]) -> None:
        words = memory.words
        state = words[W_STATE]
        found["state"] = STATES[state] if state < len(STATES) else str(state)
        found["progress_age"] = max(0.0, (time.monotonic_ns() - words[W_PROGRESS]) / 1e9)
        found["counters"] = {name: words[word] for name, word in _COUNTER_WORD.items()}
        found["caches"] = json.loads(self._sizes)
        found["health"] = dict(self._health)

    def _close(self, memory: _Memory) -> None:
        self._state(memory, "stopped")
        self._release()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    def _text(self) -> bytes:
        health = _json(self._health)
        text = f'{{"settings":{self._settings},"caches":{self._sizes},"health":{health}}}'.encode()
        if len(text) <= PAGE_SIZE - TEXT_AT:
            return text
        return f'{{"settings":{{}},"caches":{{}},"health":{health},"truncated":true}}'.encode()

    def _is_ours(self) -> bool:
        # By PID too: a child that C code has forked ran no hook. And before the lock is taken: in a
        # child it may be held for ever, by a thread that only the parent has.
        return self._memory is not None and os.getpid() == self._pid

    def _write(self, work: Callable[..., None], *arguments: Any) -> None:
        """Let `work(memory, *arguments)` write under the lock, if the page is live and names this process."""
        if self._is_ours():
            self._guarded(self._locked, work, *arguments)

    def _locked(self, work: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            if self._memory is not None:
                work(self._memory, *arguments)

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """The one place where failures end; the first is kept in `error`."""
        try:
            work(*arguments)
        except Exception as e:  # noqa: BLE001 - a program must not stop because it cannot be watched
            if self.error is None:
                self.error = _describe(e)

    def _discard(self) -> None:
        path, self.path = self.path, None
        if path is not None:
            os.unlink(path)
        self._release()

    def _release(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.release()


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), default=str)


def _describe(error: Exception) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - the text of a stranger's exception is a stranger's code
        return type(error).__name__


def _forget_in_child(ref: weakref.ref[StatusPage]) -> None:
    page = ref()
    if page is not None:
        page._guarded(page._release)
