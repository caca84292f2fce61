"""Watches the loader processes from a thread of its own, while the main thread waits for a batch of theirs.

DataLoader's own time limit does not fire while the main thread receives the FD of a batch from a process that is
stopped, or reads what a process that died has written half (FACTS 8): so whoever watches must not be in that wait.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.processes import parse_stat, read_file
from worker import poking
from worker.ingest import beat
from worker.ingest.beat import Beats

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5
STOPPED_S = 2.0
# More between two looks was time in which this process did not run, and its loader processes perhaps neither.
_LONGEST_LOOK_S = 2.0
# So long the main thread has to leave its wait by itself once a process has ended.
_POKED_AFTER_S = 2.0
_END_LIMIT_S = 5.0
_STOPPED = frozenset("Tt")
# Work, and not just the look at a queue every few seconds: so many clock ticks between two looks.
_AT_WORK_TICKS = 3
# So many times `stall_s` a process may be at work without a sign of life, or a batch on its way.
_BUSY_WITHIN = 2
# Waiting for a disk, of which the kernel says so.
_AT_DISK = "D"


class WaitEnded(BaseException):
    """Raised in the main thread in a wait that can only be ended so. No Exception: DataLoader must let it through."""


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """How long what may take, in seconds.

    `stall_s`: between two signs of life of a process that loads. `lost_s`: for a batch that is finished to arrive.
    `build_s`: for the processes to be started.
    """

    stall_s: float
    lost_s: float
    build_s: float

    @classmethod
    def of(cls, visibility_s: float, timeout_s: float) -> WatchLimits:
        """As the server's visibility time asks; where there is none, the time limit of the DataLoader, 0 for none."""
        if not visibility_s:
            limit = timeout_s or float("inf")
            return cls(limit, limit, max(60.0, limit))
        # A download may be silent for 5 s at least (`ImageLimits`): that alone is no stall.
        return cls(max(10.0, visibility_s / 2), max(5.0, visibility_s / 6), max(60.0, visibility_s))


class Trouble(NamedTuple):
    """Why no batch will come. `suspect`: as `LoaderError`. `died`: by itself, or by somebody else's hand."""

    text: str
    suspect: int | None = None
    died: bool = False


class _Seen(NamedTuple):
    """What the kernel says of a process or thread; `ticks`: of CPU time used."""

    state: str
    start_ticks: int
    ticks: int


@dataclass(slots=True)
class _Process:
    """A loader process, and since when (CLOCK_MONOTONIC, s) it was seen stopped, or at work."""

    pid: int
    start_ticks: int | None
    stopped_since: float | None = None
    ticks: int = 0
    at_work: float = field(default_factory=time.monotonic)


class LoaderWatch:
    """One for each `Loader`. Its thread lives from `start` to `stop`.

    What it finds wrong it ends by killing the process, and keeps as `trouble`: that frees a main thread which
    receives from that process. If it still waits 2 s later it is taken out of the wait by `WaitEnded`.
    """

    def __init__(self, limits: WatchLimits) -> None:
        self.trouble: Trouble | None = None
        self._limits = limits
        self._look: Callable[[float], None] | None = None
        self._since = 0.0
        self._trouble_since = 0.0
        self._iterator: Any = None
        self._beats: Beats | None = None
        self._processes: list[_Process] = []
        self._receivers = _Process(os.getpid(), None)
        self._server: _Process | None = None
        self._waiting_thread: threading.Thread | None = None
        self._thread: threading.Thread | None = None
        # Not an event: the main thread may be taken out of it by a signal, and must not leave a lock.
        self._end: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """Begin. To be called by the thread that is going to wait."""
        if self._thread is None:
            poking.on_poke(self._on_poke)
            self._waiting_thread = threading.current_thread()
            self._end = SimpleQueue()
            self._thread = threading.Thread(
                target=self._run, args=(self._end,), name="ami-loader", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End, and forget the processes."""
        thread, self._thread = self._thread, None
        self._look = self._iterator = self._beats = None
        self._processes = []
        if thread is not None:
            poking.no_more(self._on_poke)
            self._end.put(None)
            thread.join(_END_LIMIT_S)

    def of(self, iterator: Any, processes: Sequence[BaseProcess], beats: Beats) -> None:
        """Watch the processes of this iterator from now on."""
        self._iterator, self._beats = iterator, beats
        self._processes = [_Process(p.pid, _start_of(p.pid)) for p in processes if p.pid is not None]

    @contextmanager
    def building(self) -> Iterator[None]:
        """A context in which the processes are started: the fork server is watched, which is asked to."""
        with self._watched(self._look_at_fork_server):
            yield

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A context in which a batch is waited for."""
        with self._watched(self._look_at_processes):
            yield

    @contextmanager
    def _watched(self, look: Callable[[float], None]) -> Iterator[None]:
        self.trouble = None
        self._count_from(time.monotonic())
        self._server = None
        self._look = look
        try:
            yield
        finally:
            self._look = None

    def _count_from(self, now: float) -> None:
        self._since = now
        for process in (*self._processes, self._receivers):
            process.stopped_since = None
            process.at_work = now

    def _run(self, end: SimpleQueue[None]) -> None:
        looked = time.monotonic()
        while True:
            with suppress(Empty):
                return end.get(timeout=LOOK_EVERY_S)
            before, looked = looked, time.monotonic()
            if looked - before > _LONGEST_LOOK_S:
                self._count_from(looked)
            look = self._look
            if look is None:
                continue
            try:
                if self.trouble is None:
                    look(time.monotonic())
                elif time.monotonic() - self._trouble_since > _POKED_AFTER_S:
                    poking.poke()
            except CannotObserve as e:
                # Of /proc, at EMFILE for one. The main thread still sees by itself what has died.
                log.debug("the loader processes cannot be looked at: %s", e)
            except Exception:
                log.exception("the watch over the loader processes: a look failed")

    def _on_poke(self) -> None:
        if self._look is not None and self.trouble is not None:
            self._look = None
            raise WaitEnded(self.trouble.text)

    def _found(self, trouble: Trouble) -> None:
        self._trouble_since = time.monotonic()
        self.trouble = trouble

    def _look_at_processes(self, now: float) -> None:
        self._note_receivers(now)
        for number, process in enumerate(self._processes):
            seen = _see(process.pid)
            if seen is None or process.start_ticks not in (None, seen.start_ticks):
                # The main thread finds out how it ended, unless it is stuck.
                self._found(Trouble(f"loader process {process.pid} has died", died=True))
            elif self._is_stopped(process, seen.state, now):
                self._kill(process, "is stopped")
            else:
                if seen.ticks - process.ticks >= _AT_WORK_TICKS or seen.state == _AT_DISK:
                    process.at_work = now
                process.ticks = seen.ticks
                self._judge(number, process, now)
            if self.trouble is not None:
                return

    def _note_receivers(self, now: float) -> None:
        """A batch that is received, or copied to pinned memory, by our own threads is not lost."""
        threads = (self._waiting_thread, getattr(self._iterator, "_pin_memory_thread", None))
        ids = [thread.native_id for thread in threads if thread is not None]
        seen = [_see(os.getpid(), f"task/{number}/stat") for number in ids if number is not None]
        ticks = sum(one.ticks for one in seen if one is not None)
        if ticks - self._receivers.ticks >= _AT_WORK_TICKS:
            self._receivers.at_work = now
        self._receivers.ticks = ticks

    def _look_at_fork_server(self, now: float) -> None:
        """Where there is one: a stopped one takes the order for a process and never answers."""
        # None of its ways to ask for it starts none.
        pid = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009 - private, and not in the stubs
        seen = _see(pid) if pid is not None else None
        if seen is not None:
            if self._server is None or self._server.pid != pid:
                self._server = _Process(pid, seen.start_ticks)
            if self._is_stopped(self._server, seen.state, now):
                self._kill(self._server, "is stopped", name="the fork server, process")
                return
        if now - self._since > self._limits.build_s:
            text = f"no loader process was started within {self._limits.build_s:g} s"
            if self._server is not None and seen is not None:
                self._kill(self._server, "does not answer", name="the fork server, process")
            self._found(Trouble(text))

    def _is_stopped(self, process: _Process, state: str, now: float) -> bool:
        if state not in _STOPPED:
            process.stopped_since = None
            return False
        process.stopped_since = process.stopped_since or now
        return now - process.stopped_since >= STOPPED_S

    def _judge(self, number: int, process: _Process, now: float) -> None:
        """End a process that does not get on with what it was asked for."""
        shown = self._beats.read(number) if self._beats is not None else None
        pending = [at for at, info in list(self._iterator._task_info.items()) if info == (number,)]
        if shown is None or not pending:
            return
        limits, first = self._limits, self._iterator._rcvd_idx
        quiet = now - max(shown.last_ns / 1e9, self._since)
        still = min(quiet, now - process.at_work)
        idle = min(still, now - self._receivers.at_work)
        too_long = quiet >= _BUSY_WITHIN * limits.stall_s
        # A large image on a busy machine takes its time to be decoded.
        if shown.phase == beat.LOADING and (still >= limits.stall_s or too_long):
            text = f"loads, and has given no sign of life for {limits.stall_s:g} s"
            self._kill(process, text, min(pending) - first)
        # The batches of others may have to be received first.
        elif shown.phase == beat.IDLE and first in pending:
            # Requests go to the processes in turn, and each works on its own in order.
            if shown.finished <= first // len(self._processes):
                if idle >= limits.stall_s or too_long:
                    self._kill(process, f"has not begun with what it was asked for {limits.stall_s:g} s ago")
            elif idle >= limits.lost_s or too_long:
                limit_s = idle if idle >= limits.lost_s else quiet
                self._kill(process, f"is idle, and its batch has not come for {limit_s:.0f} s, so it is lost")
        elif shown.phase == beat.STARTING and idle >= limits.stall_s:
            self._kill(process, f"has not begun to work for {limits.stall_s:g} s")

    def _kill(
        self, process: _Process, why: str, suspect: int | None = None, name: str = "loader process"
    ) -> None:
        # Before it is killed: the main thread may find it dead at once, and asks why.
        self._found(Trouble(f"{name} {process.pid} {why}: killed", suspect))
        seen = _see(process.pid)
        if seen is not None and process.start_ticks in (None, seen.start_ticks):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _see(pid: int, file: str = "stat") -> _Seen | None:
    """None where it has ended. Raises CannotObserve where it cannot be told."""
    try:
        data = read_file(pid, file, "the state")
    except ProcessGone:
        return None
    stat = parse_stat(pid, data)
    user, system = data[data.rindex(b")") + 2 :].split()[11:13]
    return None if stat.ended else _Seen(stat.state, stat.start_ticks, int(user) + int(system))


def is_stopped(pid: int) -> bool:
    """Whether a process is stopped just now; False where that cannot be told."""
    try:
        seen = _see(pid)
    except CannotObserve:
        return False
    return seen is not None and seen.state in _STOPPED


def _start_of(pid: int) -> int | None:
    try:
        seen = _see(pid)
    except CannotObserve:
        return None
    return seen.start_ticks if seen is not None else None
