"""How long, how often and why the server has given no usable answer."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter

from worker.antenna.schemas import AntennaError, BadAnswerError, UnavailableError

log = logging.getLogger(__name__)


ADDRESS_HINT = "is AMI_ANTENNA_API_BASE_URL right, with /api/v2?"

# So many different causes are told apart while the server is out of reach; whatever else comes is counted as one.
_CAUSES = 8
_OTHER = "other causes"


class UnreachableError(Exception):
    """The server has given no usable answer for longer than the setting allows."""


class Reach:
    """Counts from the first failed call of a kind; any good answer ends the count. `limit_s` is in seconds."""

    def __init__(self, limit_s: float, missing: str = "no usable answer", calls: str = "polls") -> None:
        """`missing`: what such a failure means, for the log; `calls`: how the calls are called."""
        self._limit_s = limit_s
        self._missing = missing
        self._calls = calls
        self._since: float | None = None
        self._causes: Counter[str] = Counter()
        self._last = ""
        self._hint = ""
        self._wait_until = 0.0

    @property
    def failing(self) -> bool:
        """Whether the last answer was no good one."""
        return self._since is not None

    @property
    def failures(self) -> int:
        """How many calls in a row have failed."""
        return self._causes.total()

    def answered(self) -> None:
        """The server gave a good answer."""
        if self._since is not None:
            seconds = time.monotonic() - self._since
            log.info(
                "the server answers again, after %.0f s and %s failed %s", seconds, self.failures, self._calls
            )
        self.forget()

    def forget(self) -> None:
        """Nothing was there to be asked for: what failed before is over."""
        self._since, self._last, self._wait_until = None, "", 0.0
        self._causes.clear()

    def failed(self, error: AntennaError) -> None:
        """The server gave none. Each cause is logged once until it answers again, however they alternate.

        Raises:
            UnreachableError: for longer than the limit.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        asked_s = error.retry_after_s if isinstance(error, UnavailableError) else None
        self._wait_until = now + (asked_s or 0.0)
        self._last = str(error)
        self._hint = f": {ADDRESS_HINT}" if isinstance(error, BadAnswerError) else ""
        if self._count(error):
            log.warning("%s, trying again for up to %.0f s: %s", self._missing, self._limit_s, error)
        if now - self._since >= self._limit_s:
            raise self.unreachable()

    def pause(self, wanted_s: float) -> float:
        """How long to wait before the next try: as wanted, or longer as the server asks, not past the limit."""
        if self._since is None:
            return wanted_s
        now = time.monotonic()
        return max(0.0, min(max(wanted_s, self._wait_until - now), self._since + self._limit_s - now))

    def unreachable(self) -> UnreachableError:
        """The error that ends the worker, with the last cause in words, and how often each one came."""
        since = 0.0 if self._since is None else time.monotonic() - self._since
        how_long = f" for {since:.1f} s" if since >= 0.1 else ""
        how_often = f" in {self.failures} {self._calls}" if self.failures > 1 else ""
        counts = "; ".join(f"{count} × {cause}" for cause, count in self._causes.most_common())
        every = f" (all: {counts})" if len(self._causes) > 1 else ""
        return UnreachableError(f"{self._missing}{how_long}{how_often}: {self._last}{self._hint}{every}")

    def _count(self, error: AntennaError) -> bool:
        """Whether it is the first of its kind."""
        # An address in memory is another one each time, and a job may be.
        kind = re.sub(r" at 0x[0-9a-f]+|(?<=/jobs)/\d+", "", str(error))
        if kind not in self._causes and len(self._causes) >= _CAUSES:
            kind = _OTHER
        self._causes[kind] += 1
        return self._causes[kind] == 1 and kind != _OTHER
