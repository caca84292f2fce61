"""The watchdog: ends a process whose main thread is at one thing for longer than that may take."""

from __future__ import annotations

import math
from collections.abc import Callable


class Watchdog:
    """Watches from a thread of its own, outside of whatever the main thread is blocked in.

    `limit_s`: the longest time, in seconds, for one thing that says nothing else. `alive` is called every second or
    so as long as the main thread gets on. `on_hang(what)` is called, once, before the process is ended with code 70.
    """

    def __init__(
        self,
        limit_s: float = math.inf,
        *,
        alive: Callable[[], None] = lambda: None,
        on_hang: Callable[[str], None] = lambda what: None,
    ) -> None:
        self._limit_s = limit_s
        self._alive = alive
        self._on_hang = on_hang

    def start(self) -> None:
        """Begin to watch."""

    def at(self, what: str, limit_s: float | None = None) -> None:
        """The main thread begins `what`, and has ended what it was at before. `math.inf` for no limit."""

    def stop(self) -> None:
        """Watch no more."""
