"""Which counter growth follows: polls, jobs, loaders, batches, images, posts or seconds.

The series and each counter are compared between the troughs of blocks. If a counter drives the
growth, what the series gained from one trough to the next is proportional to what the counter
gained; the less of it is left over, the better the counter explains it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from amidiag.model import Rate, Unit
from amidiag.series.blocks import check_unit, cut, cut_life, last_life
from amidiag.series.quantiles import t_quantile
from amidiag.series.rise import grain
from amidiag.series.trough import LEAST_RISE

# Where several counters cannot be told apart, the one nearest to what holds resources is named.
_NEAREST_FIRST = ("loaders", "jobs", "batches", "images", "posts", "polls", "seconds")
# Log likelihood ratio (400 to 1) from which one counter is said to explain growth better than another.
_BETTER = 6.0
_LENGTHS = (1, 4, 16)  # samples per block, tried beside those of the trough test
_FEWEST_BLOCKS = 6
_SHIFTS = (0, -1, 1)  # samples
_NOTHING_LEFT = 1e-18  # of the squared growth: rounding
_INTERVAL = 0.975


@dataclass(frozen=True, slots=True)
class Driver:
    """What growth follows.

    Attributes:
        name: the counter; None where nothing grows or no counter moved.
        rate: growth per step of that counter, with its 95 % interval.
        tied: counters that explain the growth about as well: they cannot be told apart from `name`.
        evidence: the figures behind it, for people.
    """

    name: str | None
    rate: Rate | None
    tied: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Fit:
    """One counter against the series, at one length of blocks."""

    ratio: float
    left_over: float
    steps: int
    gained: float

    @property
    def spread(self) -> float:
        """Standard error of the ratio; infinite for a counter that stood still."""
        if self.gained <= 0:
            return math.inf
        return math.sqrt(self.left_over * self.steps / (self.steps - 1)) / self.gained


def find_driver(
    values: Sequence[float],
    counters: Mapping[str, Sequence[float]],
    unit: Unit = "fd",
    restarts: Sequence[int] = (),
) -> Driver:
    """Name the counter that the growth of a series follows, and the growth per step of it.

    Args:
        values: the series, NaN where missing.
        counters: each counter's value at each sample, never falling within one process life; NaN where
            unknown. One that did not move, or is mostly unknown, is left out.
        unit: what is counted.
        restarts: indices at which a new process life begins; a counter that falls says so too.

    Raises ValueError for an unknown unit, and where a counter is not as long as the series.
    """
    check_unit(unit)
    for name, counter in counters.items():
        if len(counter) != len(values):
            raise ValueError(f"counter {name!r} has {len(counter)} values, the series {len(values)}")
    start, life = last_life(values, (*restarts, *_falls(counters)))
    moved = _moving(counters, start, len(life))
    if not moved:
        return Driver(None, None, evidence=("no counter moved while the series was recorded",))
    life, moved = _complete(life, moved)
    fits = _fits(life, moved, unit)
    if not fits:
        return Driver(None, None, evidence=(f"{len(life)} complete samples are too few to find a driver",))
    return _choose(fits, life, unit)


def _choose(fits: Sequence[Mapping[str, _Fit]], life: Sequence[float], unit: Unit) -> Driver:
    against = {name: _evidence_against(name, fits) for name in fits[0]}
    least = min(against.values())
    unbeaten = sorted((n for n in against if against[n] <= max(least, _BETTER)), key=_nearness)
    name = unbeaten[0]
    fit = min((at[name] for at in fits), key=lambda one: one.spread)
    if not math.isfinite(fit.spread):
        return Driver(None, None, evidence=("no counter moved after the warm-up",))
    margin = t_quantile(_INTERVAL, fit.steps - 1) * fit.spread
    if fit.left_over > 0:
        # Where in its cycle the series was first and last seen is chance.
        margin += grain(life) / fit.gained
    low, high = fit.ratio - margin, fit.ratio + margin
    if low <= 0 or fit.ratio * fit.gained < LEAST_RISE[unit]:
        return Driver(None, None, evidence=("the series does not grow with any counter",))
    evidence = [f"{name}: {_words(fit)}"]
    evidence += [f"not {n}: {_odds(against[n])} against it" for n in sorted(against) if n not in unbeaten]
    if unbeaten[1:]:
        evidence.append(f"cannot be told apart from {name}: {', '.join(unbeaten[1:])}")
    return Driver(name, Rate(name, fit.ratio, low, high), tuple(unbeaten[1:]), tuple(evidence))


def _evidence_against(name: str, fits: Sequence[Mapping[str, _Fit]]) -> float:
    """The largest log likelihood ratio with which another counter explains the growth better."""
    return max(_log_ratio(at[name], other) for at in fits for other in at.values())


def _log_ratio(worse: _Fit, better: _Fit) -> float:
    if worse.left_over <= better.left_over:
        return 0.0
    if better.left_over == 0:
        return math.inf
    return worse.steps / 2 * math.log(worse.left_over / better.left_over)


def _fits(
    life: Sequence[float], counters: Mapping[str, Sequence[float]], unit: Unit
) -> list[dict[str, _Fit]]:
    """Every counter against the series, by length of block; short blocks tell counters apart, long ones hide bursts."""
    tried = [cut_life(life, unit)] if len(life) >= 8 else []
    tried += [cut(life, len(life) // n, unit) for n in _LENGTHS if len(life) // n >= _FEWEST_BLOCKS]
    found = []
    for blocks in tried:
        if blocks is None:
            continue
        # As in the trough test, the first quarter may be warm-up.
        places = blocks.positions[len(blocks.positions) // 4 :]
        gains = [life[b] - life[a] for a, b in pairwise(places)]
        found.append({name: _best_fit(gains, c, places) for name, c in counters.items()})
    return found


def _best_fit(gains: Sequence[float], counter: Sequence[float], places: Sequence[int]) -> _Fit:
    """The counter as it was read, or as one sample earlier or later: series and counters are not read at once."""
    last = len(counter) - 1
    fits = []
    for shift in _SHIFTS:
        moved = [counter[min(last, max(0, place + shift))] for place in places]
        fits.append(_fit(gains, [b - a for a, b in pairwise(moved)]))
    return min(fits, key=lambda fit: fit.left_over if fit.gained > 0 else math.inf)


def _fit(gains: Sequence[float], steps: Sequence[float]) -> _Fit:
    """Growth per step as the ratio of the sums; 0 where the counter stood still."""
    gained = math.fsum(steps)
    ratio = math.fsum(gains) / gained if gained > 0 else 0.0
    left_over = math.fsum((gain - ratio * step) ** 2 for gain, step in zip(gains, steps, strict=True))
    if left_over <= _NOTHING_LEFT * math.fsum(gain * gain for gain in gains):
        left_over = 0.0
    return _Fit(ratio, left_over, len(gains), gained)


def _falls(counters: Mapping[str, Sequence[float]]) -> list[int]:
    """Where a counter fell: it counts from 0 again, in a new process."""
    falls = []
    for counter in counters.values():
        known = [(i, value) for i, value in enumerate(counter) if value is not None and math.isfinite(value)]
        falls += [j for (_, before), (j, after) in pairwise(known) if after < before]
    return falls


def _moving(counters: Mapping[str, Sequence[float]], start: int, length: int) -> dict[str, list[float]]:
    """The counters that moved in this life and are mostly known, cut to it."""
    moving = {}
    for name, counter in counters.items():
        part = [math.nan if c is None else float(c) for c in counter[start : start + length]]
        known = [value for value in part if math.isfinite(value)]
        if known and 2 * len(known) >= length and known[-1] > known[0]:
            moving[name] = part
    return moving


def _complete(
    life: Sequence[float], counters: Mapping[str, Sequence[float]]
) -> tuple[list[float], dict[str, list[float]]]:
    """Only the samples of which everything is known."""
    columns = [life, *counters.values()]
    rows = [i for i in range(len(life)) if all(math.isfinite(column[i]) for column in columns)]
    return [life[i] for i in rows], {name: [c[i] for i in rows] for name, c in counters.items()}


def _nearness(name: str) -> int:
    return _NEAREST_FIRST.index(name) if name in _NEAREST_FIRST else len(_NEAREST_FIRST)


def _words(fit: _Fit) -> str:
    if fit.left_over == 0:
        return f"explains every one of {fit.steps} steps exactly"
    return f"leaves {math.sqrt(fit.left_over / fit.steps):.3g} of a step unexplained, over {fit.steps} steps"


def _odds(log_ratio: float) -> str:
    return "odds of over a million to 1" if log_ratio > 13.8 else f"odds of {math.exp(log_ratio):.3g} to 1"
