"""How long the server has given no usable answer."""

from __future__ import annotations

import logging
import time

from worker.antenna.schemas import AntennaError, BadAnswerError

log = logging.getLogger(__name__)


ADDRESS_HINT = "is AMI_ANTENNA_API_BASE_URL right, with /api/v2?"


class UnreachableError(Exception):
    """The server has given no usable answer for longer than the setting allows."""


class Reach:
    """Counts from the first failed poll; any good answer ends the count. `limit_s` is in seconds."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None
        self._last = ""
        self._hint = ""

    @property
    def failing(self) -> bool:
        """Whether the last answer was no good one."""
        return self._since is not None

    def answered(self) -> None:
        """The server gave a good answer."""
        if self._since is not None:
            log.info("the server answers again, after %.0f s", time.monotonic() - self._since)
        self._since, self._last = None, ""

    def failed(self, error: AntennaError) -> None:
        """The server gave none. The cause is logged once, not on every poll.

        Raises:
            UnreachableError: for longer than the limit.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if str(error) != self._last:
            self._last = str(error)
            self._hint = f": {ADDRESS_HINT}" if isinstance(error, BadAnswerError) else ""
            log.warning("no usable answer, trying again for up to %.0f s: %s", self._limit_s, error)
        if now - self._since >= self._limit_s:
            raise self.unreachable()

    def pause(self, wanted_s: float) -> float:
        """How long to wait before the next try: as wanted, but not past the limit."""
        if self._since is None:
            return wanted_s
        return max(0.0, min(wanted_s, self._since + self._limit_s - time.monotonic()))

    def unreachable(self) -> UnreachableError:
        """The error that ends the worker, with the last cause in words."""
        since = 0.0 if self._since is None else time.monotonic() - self._since
        how_long = f" for {since:.1f} s" if since >= 0.1 else ""
        return UnreachableError(f"no usable answer{how_long}: {self._last}{self._hint}")
