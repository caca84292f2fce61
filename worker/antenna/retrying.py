"""When a server that does not take results is tried again, and how long a worker that shall end waits for it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from worker.antenna.schemas import UnavailableError
from worker.exhaustion import behind

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0
# So many tries in a row, some 8 s, may fail because this process has no FD left or the like.
_WITHOUT_MEANS = 5


class Retries:
    """Growing pauses, or as long as the server asks for. Times are seconds of CLOCK_MONOTONIC."""

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._pause = FIRST_PAUSE_S
        self._next = 0.0
        self._told = False
        self._without_means = 0
        self.since: float | None = None
        """When the first try failed after which none has succeeded."""

    def failed(self, error: UnavailableError) -> bool:
        """Whether it is time to give up; else `due_in` says when to try again."""
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        left = self.since + self._give_up_after_s - now
        self._told = error.retry_after_s is not None
        wait = self._pause if error.retry_after_s is None else error.retry_after_s
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
        self._next = now + (min(wait, left) if left > 0 else wait)
        # Then the server is not to blame, and waiting for it helps nobody.
        self._without_means = self._without_means + 1 if behind(error) is not None else 0
        return left <= 0 or self._without_means >= _WITHOUT_MEANS

    def answered(self) -> None:
        """The server is there."""
        self.since, self._pause, self._next, self._told = None, FIRST_PAUSE_S, 0.0, False
        self._without_means = 0

    def due_in(self) -> float:
        """Seconds until the next try; 0 or less: now."""
        return self._next - time.monotonic()

    def hasten(self) -> None:
        """The next try is due now, unless the server asked for a pause."""
        if not self._told:
            self._next = 0.0

    def is_hopeless(self, until: float) -> bool:
        """Whether the server asked not to be tried before `until`."""
        return self._told and self._next >= until


class Hurry:
    """How long a worker waits for the server once it was told to drain."""

    def __init__(self, asked: Callable[[], bool], seconds: float) -> None:
        self._asked = asked
        self._seconds = seconds
        self.end = math.inf
        """CLOCK_MONOTONIC in seconds; infinite as long as there is no hurry."""
        self.is_due = False
        """Hurry, whether asked or not."""

    @property
    def has_begun(self) -> bool:
        """Whether somebody has looked since the worker was told."""
        return self.end != math.inf

    def begins(self) -> bool:
        """Look. True the first time that the worker has been told."""
        if self.has_begun or not (self.is_due or self._asked()):
            return False
        self.end = time.monotonic() + self._seconds
        return self.has_begun

    def left_s(self) -> float:
        """Seconds; infinite as long as there is no hurry."""
        return self.end - time.monotonic()
