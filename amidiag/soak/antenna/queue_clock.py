"""The clock by which the queue gives tasks up: monotonic, until it is told to jump ahead or to stand still."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class QueueClock:
    """Seconds, never going back. Call it for the time. Thread-safe."""

    def __init__(self, real: Callable[[], float] = time.monotonic) -> None:
        self._real = real
        self._lock = threading.Lock()
        self._ahead = 0.0
        # While it stands still: when that began and when it ends, in real time.
        self._stopped: tuple[float, float] | None = None

    def __call__(self) -> float:
        with self._lock:
            # First this: it changes how far ahead we are.
            real = self._go_on(self._real())
            return real + self._ahead

    def jump(self, seconds: float) -> None:
        """Be so much later from now on."""
        with self._lock:
            self._ahead += seconds

    def stop(self, seconds: float) -> None:
        """Stand still for so long; then go on from where it stood. A further stop prolongs it, never shortens."""
        with self._lock:
            now = self._real()
            self._go_on(now)
            began, ends = self._stopped or (now, now)
            self._stopped = (began, max(ends, now + seconds))

    def _go_on(self, now: float) -> float:
        """The real time, less what was stood still."""
        if self._stopped is None:
            return now
        began, ends = self._stopped
        if now < ends:
            return began
        self._ahead -= ends - began
        self._stopped = None
        return now
