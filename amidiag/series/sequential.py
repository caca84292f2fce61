"""The trough test while the series grows: looks at growing intervals, and an early end (FACTS 9).

Looking after every sample and stopping at the first "leak" would find one in every random walk.
The rule was measured as it is (0 of 800 false in each of 35 healthy families), so the first look is
no parameter: a run planned to be short is judged once, at its planned end, with `judge`.
"""

from __future__ import annotations

import math
from dataclasses import replace

from amidiag.model import Unit, Verdict
from amidiag.series.blocks import check_unit
from amidiag.series.trough import examine

FIRST_LOOK = 200
_GROWTH = 1.25
_IN_A_ROW = 2


class Sequential:
    """Collects one series and decides as early as it may.

    `leak` takes two looks in a row, `stable` the certificate of one look at bounds that allow for
    stopping early. What is decided stays decided until `restart`.
    """

    def __init__(self, unit: Unit = "fd", tolerance: float | None = None, warm_up: int = 0) -> None:
        """Begin with no samples.

        Args:
            unit: what is counted.
            tolerance: growth per sample below which the series counts as stable, as in `judge`.
            warm_up: samples that belong to the start-up; no look is made before they are over.

        Raises ValueError for an unknown unit or a tolerance that is negative or NaN.
        """
        check_unit(unit)
        if tolerance is not None and not tolerance >= 0:
            raise ValueError(f"tolerance is a growth per sample of 0 or more, not {tolerance}")
        self.unit: Unit = unit
        self.tolerance = tolerance
        self.decided: Verdict | None = None
        self._first_look = max(FIRST_LOOK, warm_up)
        self._values: list[float] = []
        self._next_look = self._first_look
        self._leaks = 0

    @property
    def next_look(self) -> int:
        """The number of samples of this process life at which the next look is due."""
        return self._next_look

    def add(self, value: float) -> None:
        """Append the sample of one cycle, NaN if it is missing."""
        self._values.append(value)

    def restart(self) -> None:
        """A new process life begins with the next sample: forget the samples, the looks and the decision."""
        self._values.clear()
        self.decided = None
        self._next_look, self._leaks = self._first_look, 0

    def look(self) -> Verdict | None:
        """The verdict, once it is `leak` or `stable`; None while no look is due or nothing is decided."""
        if self.decided is not None or len(self._values) < self._next_look:
            return self.decided
        while self._next_look <= len(self._values):
            self._next_look = math.ceil(self._next_look * _GROWTH)
        verdict = self._examine()
        self._leaks = self._leaks + 1 if verdict.kind == "leak" else 0
        if verdict.kind == "stable" or self._leaks >= _IN_A_ROW:
            self.decided = verdict
        return self.decided

    def verdict(self) -> Verdict:
        """What can be said now: the decision, or else what the samples so far allow.

        A leak that was not seen at two looks in a row is called growing: asking at any moment is a look too.
        """
        if self.decided is not None:
            return self.decided
        verdict = self._examine()
        if verdict.kind != "leak":
            return verdict
        looks_left = _IN_A_ROW - self._leaks
        last_look = self._next_look
        for _ in range(looks_left - 1):
            last_look = math.ceil(last_look * _GROWTH)
        why = f"a leak is said after two looks in a row; {self._leaks} so far, the next at {self._next_look} samples"
        needed = last_look - len(self._values)
        return replace(verdict, kind="growing", samples_needed=needed, evidence=(*verdict.evidence, why))

    def _examine(self) -> Verdict:
        return examine(self._values, self.unit, (), self.tolerance, early_stopping=True)
