"""Holding batches back on what is really used, before the budget is passed."""

from __future__ import annotations

import logging
from typing import Final

from worker.guard.words import size_in_words

log = logging.getLogger(__name__)

PLANNED: Final = 0.80
"""Share of the budget that is planned with; the rest is for what no plan foresees."""
HIGH: Final = 0.92
"""Share of the budget at which less is allowed."""
LOW: Final = 0.75
"""Share of the budget below which more is allowed again: well below PLANNED, so that it does not flap."""
CALM: Final = 4
"""How many looks in a row must be below LOW before more is allowed."""
PATIENCE: Final = 2
"""Looks after a step down until the next: batches that were asked for before are still on their way."""
STEP: Final = 0.05
"""Share of the budget that is given back at a time."""


class Throttle:
    """How many bytes of the budget are held back.

    At once down to what is planned when usage comes near the budget, back in small steps when it has been
    low for a while.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._calm = 0
        self._wait = 0
        self._last = 0
        self.held_back = 0

    def seen(self, usage: int) -> None:
        """Take in what the worker with its loader processes uses now, in bytes."""
        share = usage / self._budget
        self._calm = self._calm + 1 if share < LOW else 0
        self._wait = max(0, self._wait - 1)
        if share >= HIGH and (not self._wait or usage > self._last):
            self._shrink(usage)
        elif self.held_back and self._calm >= CALM:
            self._grow(usage)
        self._last = usage

    def _shrink(self, usage: int) -> None:
        excess = usage - int(PLANNED * self._budget)
        self.held_back = min(self._budget, self.held_back + excess)
        self._wait = PATIENCE
        self._say("comes near the budget", usage)

    def _grow(self, usage: int) -> None:
        self.held_back = max(0, self.held_back - int(STEP * self._budget))
        self._calm = 0
        self._say("has been low", usage)

    def _say(self, what: str, usage: int) -> None:
        log.info(
            "memory in use %s: %s of %s; %s are held back from batches in flight",
            what,
            size_in_words(usage),
            size_in_words(self._budget),
            size_in_words(self.held_back),
        )
