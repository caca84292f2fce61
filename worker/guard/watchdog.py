"""The watchdog: ends a process whose main thread is at one thing for longer than that may take."""

from __future__ import annotations

import faulthandler
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import NamedTuple

from worker import exit_codes
from worker.guard.leaving import kill_descendants

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# More between two looks was time in which this process did not run: it was stopped, or the machine was asleep.
_LONGEST_LOOK_S = 2.0
_WEIGHT_OF_WORK = 0.25
# Not more: on a busy machine who computes waits for a CPU most of the time.
_AT_WORK = 0.1
_WORDS_S = 2.0
_ON_HANG_S = 6.0
_LAST_LIMIT_S = 20.0
_ARMED_EVERY_S = 10.0
_STDERR = 2


class _Mark(NamedTuple):
    """What the main thread is at, and for how long it may be."""

    what: str
    limit_s: float
    since: float


class Watchdog:
    """Watches from a thread of its own, outside of whatever the main thread is blocked in.

    `limit_s`: the longest time, in seconds, for one thing that says nothing else. `alive` is called every second or
    so as long as the main thread gets on. `on_hang(what)` is called, once, before the process is ended with code 70;
    it may take 6 s.

    Time in which the process itself was stopped does not count, and time in which the main thread computes counts a
    quarter: a slow batch is no hang, an endless loop ends too. Where a library keeps the interpreter's lock, so that
    no thread of Python runs, the stacks are printed by faulthandler after `limit_s`, and the exit code is 1. That one
    cannot know that the process was stopped: who is, for so long, ends when it goes on.
    """

    def __init__(
        self,
        limit_s: float = math.inf,
        *,
        alive: Callable[[], None] = lambda: None,
        on_hang: Callable[[str], None] = lambda what: None,
    ) -> None:
        self.limit_s = limit_s
        self._alive = alive
        self._on_hang = on_hang
        self._mark = _Mark("starting", limit_s, time.monotonic())
        self._thread: threading.Thread | None = None
        self._end: SimpleQueue[None] = SimpleQueue()

    def start(self) -> None:
        """Begin to watch."""
        self._mark = _Mark("starting", self.limit_s, time.monotonic())
        self._arm(self.limit_s)
        self._thread = threading.Thread(target=self._run, name="ami-watchdog", daemon=True)
        self._thread.start()

    def at(self, what: str, limit_s: float | None = None) -> None:
        """The main thread begins `what`, and has ended what it was at before. `math.inf` for no limit."""
        self._mark = _Mark(what, self.limit_s if limit_s is None else limit_s, time.monotonic())

    def stop(self) -> None:
        """Watch no more."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._end.put(None)
            thread.join(_LONGEST_LOOK_S)
            faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        mark, at_it, seen, armed = self._mark, 0.0, time.monotonic(), time.monotonic()
        used = _used_by_main()
        while True:
            try:
                return self._end.get(timeout=LOOK_EVERY_S)
            except Empty:
                now = time.monotonic()
            if mark is not self._mark:
                mark, at_it, seen = self._mark, 0.0, max(seen, self._mark.since)
            gone, computed = now - seen, _used_by_main() - used
            gone = gone if gone <= _LONGEST_LOOK_S else LOOK_EVERY_S
            at_it += gone * _WEIGHT_OF_WORK if computed > gone * _AT_WORK else gone
            seen, used = now, used + computed
            if at_it > mark.limit_s:
                self._end_process(mark.what, at_it)
            if now - armed > _ARMED_EVERY_S:
                armed = now
                self._arm(self.limit_s)
            self._say_alive()

    def _say_alive(self) -> None:
        try:
            self._alive()
        except Exception:
            log.exception("the supervisor could not be told that the worker is alive")

    def _end_process(self, what: str, seconds: float) -> None:
        text = f"hangs at {what} for {seconds:.0f} s: ended with code {exit_codes.INTERNAL}"
        self._arm(_LAST_LIMIT_S)
        # Each by itself: the lock of the log, standard error, or the disk may be what the main thread hangs at.
        _bounded(lambda: log.critical("%s", text), _WORDS_S)
        _bounded(lambda: faulthandler.dump_traceback(_STDERR), _WORDS_S)
        _bounded(lambda: self._on_hang(what), _ON_HANG_S)
        kill_descendants()
        os._exit(exit_codes.INTERNAL)

    def _arm(self, limit_s: float) -> None:
        """Have the process ended by faulthandler's own thread, which needs no lock, unless this is called again."""
        if math.isfinite(limit_s):
            faulthandler.dump_traceback_later(limit_s + _ARMED_EVERY_S, exit=True, file=_STDERR)


def _bounded(work: Callable[[], None], limit_s: float) -> None:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit_s)


def _used_by_main() -> float:
    """CPU seconds of the main thread."""
    main = threading.main_thread().ident
    return time.clock_gettime(time.pthread_getcpuclockid(main)) if main is not None else 0.0
