"""The trough test: does a series leak, may it settle, is it stable, or is it too early to tell (FACTS 9)?

The last process life is cut into blocks, the first quarter of them is dropped as warm-up, and what
is judged is how evenly the troughs of the others rise. Limits, shared by every method: a cache that
is still filling when the series ends looks like a leak, and so does growth that slows down only
after the series ended.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from amidiag.model import Unit, Verdict
from amidiag.series.blocks import SHORTEST, Blocks, check_unit, cut, cut_life, last_life
from amidiag.series.bound import GRAIN, leans_upwards, upper_bound
from amidiag.series.certificate import MIB
from amidiag.series.quantiles import poisson_upper
from amidiag.series.rise import Rise, grain, has_stopped, largest_fall, measure, residual_variance, wanders

TOLERANCE: dict[Unit, float] = {"fd": 0.01, "thread": 0.01, "byte": 65536.0}
"""Growth per sample below which a series counts as stable, where the caller names none.

One FD or thread in 100 samples: at a poll every 5 s, a year to 65,536 FDs. A flat series certifies it
after 462 samples. 64 KiB: a quarter of the leak of +256 KiB per cycle of FACTS 9; a flat series
needs 108 samples, a noisy one more.
"""

LEAST_RISE: dict[Unit, float] = {"fd": 3.0, "thread": 3.0, "byte": float(MIB)}
"""What the troughs must rise by in the window before it is evidence of anything."""

# One-sided. A series that wanders like a random walk needs more: the troughs of blocks smooth the walk,
# which makes its steps look more even than they are (at 0.999, 0.24 % of random walks pass).
_SIGNIFICANCE, _SIGNIFICANCE_WANDERING = 0.999, 0.9999
_SIGNIFICANCE_LATE, _SIGNIFICANCE_LATE_WANDERING = 0.9998, 0.99997
_LATE_BLOCKS, _LATE_SHORTEST = 12, 96
# A rise that is evident but so much faster in its second half began late: its rate is that of the end.
_FASTER = 1.5
# A rise less than this many times the largest fall seen is one that may be taken back (a long sawtooth).
_FALLS = 2.0
# Growth that slows like a logarithm rises in its first quarter at least this many times as steeply as
# after it, and one logarithm explains the whole life about as well as a line explains the window.
_STEEPER, _AS_WELL = 2.0, 3.5
_TIME_CONSTANTS = (0.0, 1.0, 3.0)  # in blocks
# Variance that rounding to whole numbers adds.
_ROUNDING: dict[Unit, float] = {"fd": 1 / 12, "thread": 1 / 12, "byte": 0.0}
_FURTHEST = 100  # samples needed are never said to be more than that many times what there is
_INTERVAL = 0.975


@dataclass(frozen=True, slots=True)
class _Window:
    """A window that was judged: its rise, and why it may not go on."""

    rise: Rise
    evident: bool
    objections: tuple[str, ...]
    start: int


def judge(
    values: Sequence[float],
    unit: Unit = "fd",
    restarts: Sequence[int] = (),
    tolerance: float | None = None,
) -> Verdict:
    """Judge one series of equally spaced samples (one per cycle).

    Args:
        values: the series; NaN, None and infinities count as missing.
        unit: what is counted. Blocks of FDs and threads are represented by their minimum, of bytes by
            the 10 % quantile.
        restarts: indices at which a new process life begins; the last life is judged.
        tolerance: growth per sample below which the series is certified as stable; TOLERANCE[unit] if None.

    `rate`, `low` and `high` are growth per sample with its 95 % interval, `upper_bound` is one-sided
    at 99 %. Raises ValueError for an unknown unit and for a tolerance that is negative or NaN.
    """
    return examine(values, unit, restarts, tolerance, early_stopping=False)


def examine(
    values: Sequence[float],
    unit: Unit,
    restarts: Sequence[int],
    tolerance: float | None,
    *,
    early_stopping: bool,
) -> Verdict:
    """`judge`, with bounds that hold when the series is looked at again and again if `early_stopping`."""
    check_unit(unit)
    accepted = TOLERANCE[unit] if tolerance is None else tolerance
    if not accepted >= 0:
        raise ValueError(f"tolerance is a growth per sample of 0 or more, not {tolerance}")
    start, life = last_life(values, restarts)
    known = sum(1 for value in life if not math.isnan(value))
    if known < SHORTEST:
        return _too_short(known, start, unit)
    blocks = cut_life(life, unit)
    if blocks is None:
        return _too_patchy(known, len(life), unit)
    return _decide(life, known, blocks, unit, accepted, early_stopping)


def _decide(
    life: Sequence[float], known: int, blocks: Blocks, unit: Unit, tolerance: float, early_stopping: bool
) -> Verdict:
    first = len(blocks.levels) // 4
    window = _risen_window(life, known, blocks, first, unit)
    bound = upper_bound(life, blocks, first, unit, early_stopping=early_stopping)
    rate, low, high = _interval(life, window, unit)
    evidence = _figures(window, unit)
    verdict = Verdict("undecided", unit, known, rate, low, high, bound, None)
    if window.evident and not window.objections:
        refuted = f"refuted if the troughs rise no further in the next {_later(known)} samples"
        return replace(verdict, kind="leak", evidence=(*evidence, refuted))
    if window.evident:
        why = (*evidence, *window.objections)
        return replace(verdict, kind="growing", samples_needed=_later(known), evidence=why)
    # What grew and then kept its level, a warm-up or a step, is certified by the second half alone.
    for since in (first, len(blocks.levels) // 2):
        settled = upper_bound(life, blocks, since, unit, early_stopping=early_stopping)
        if settled <= tolerance and not leans_upwards(life, blocks, since, unit):
            return _stable(life, known, blocks, since, settled, unit)
    open_ = f"{_amount(bound, unit)} per sample is possible, {_amount(tolerance, unit)} is tolerated"
    more = _more(known, window.rise, bound, tolerance, unit)
    return replace(verdict, samples_needed=more, evidence=(*evidence, f"growth up to {open_}"))


def _stable(
    life: Sequence[float], known: int, blocks: Blocks, since: int, bound: float, unit: Unit
) -> Verdict:
    """Certified by the blocks from `since` on, whose rate it is."""
    rise = measure(blocks.levels[since:], blocks.length, _SIGNIFICANCE, forgive_jump=False)
    window = _Window(rise, False, (), blocks.positions[since])
    rate, low, high = _interval(life, window, unit)
    certified = f"growth above {_amount(bound, unit)} per sample is excluded at 99 %"
    return Verdict(
        "stable", unit, known, rate, low, high, bound, None, evidence=(*_figures(window, unit), certified)
    )


def _risen_window(life: Sequence[float], known: int, blocks: Blocks, first: int, unit: Unit) -> _Window:
    """What follows the warm-up, or the second half where the rise began late."""
    wandering = wanders(life[blocks.positions[first] :], blocks.length)
    window = _whole_window(blocks, first, unit, wandering)
    if window.evident and unit != "byte" and has_stopped(life, blocks.length):
        stopped = "it has kept its level for longer than ever before, so the rise may be over"
        return replace(window, objections=(*window.objections, stopped))
    if known < _LATE_SHORTEST or (window.evident and not window.rise.second_half >= _FASTER):
        return window
    late = _late_window(life, blocks, unit, wandering)
    return window if late is None or (window.evident and late.objections) else late


def _whole_window(blocks: Blocks, first: int, unit: Unit, wandering: bool) -> _Window:
    levels = blocks.levels[first:]
    significance = _SIGNIFICANCE_WANDERING if wandering else _SIGNIFICANCE
    rise = measure(levels, blocks.length, significance, forgive_jump=True)
    start = blocks.positions[first]
    if not rise.evident(LEAST_RISE[unit]):
        return _Window(rise, False, (), start)
    objections = _objections(rise, blocks, unit)
    if _slows_like_a_logarithm(rise, blocks, first, unit):
        objections = (*objections, "one curve that slows like a logarithm explains it from the start")
    return _Window(rise, True, objections, start)


def _late_window(life: Sequence[float], blocks: Blocks, unit: Unit, wandering: bool) -> _Window | None:
    """The second half alone, for a leak that began late; None without evidence there."""
    start = len(life) // 2
    late = cut(life[start:], _LATE_BLOCKS, unit)
    if late is None:
        return None
    significance = _SIGNIFICANCE_LATE_WANDERING if wandering else _SIGNIFICANCE_LATE
    rise = measure(late.levels, late.length, significance, forgive_jump=False)
    if not rise.evident(LEAST_RISE[unit]):
        return None
    return _Window(rise, True, _objections(rise, blocks, unit), start)


def _objections(rise: Rise, blocks: Blocks, unit: Unit) -> tuple[str, ...]:
    """What speaks against an evident rise going on."""
    found = []
    if not rise.sustained():
        share = f"its second half rose {rise.second_half:.2f} times its first"
        found.append(f"the rise is slowing and may settle: {share}, its last step is {rise.steps[-1]:g}")
    fall = largest_fall(blocks.levels)
    if rise.total <= _FALLS * fall:
        found.append(f"{_amount(fall, unit)} were given back before, so this rise may be taken back too")
    return tuple(found)


def _slows_like_a_logarithm(rise: Rise, blocks: Blocks, first: int, unit: Unit) -> bool:
    """Whether the life, warm-up included, is one logarithm rather than a warm-up and then a line."""
    levels = list(blocks.levels)
    if levels[first] - levels[0] <= _STEEPER * first * rise.mean:
        return False
    window = levels[first : first + 1]
    for step in rise.steps:
        window.append(window[-1] + step)
    levels[first:] = window
    line = residual_variance(range(len(window)), window) + _ROUNDING[unit]
    # The first block is left out: start-up is in it.
    times = range(1, len(levels))
    curve = min(
        residual_variance([math.log(t + 0.5 + constant) for t in times], levels[1:])
        for constant in _TIME_CONSTANTS
    )
    return curve <= _AS_WELL * line


def _interval(life: Sequence[float], window: _Window, unit: Unit) -> tuple[float, float, float]:
    """Growth per sample with its 95 % interval.

    Student's t over the steps, widened by one grain over the window: where in its cycle of leaking a
    series was first and last seen is chance, and steps that happen to agree do not show it.
    """
    rise = window.rise
    rate = rise.mean / rise.length
    steps = len(rise.steps)
    half = (rise.margin(_INTERVAL) + grain(life[window.start :]) / steps) / rise.length
    low, high = rate - half, rate + half
    if rate == 0 and half == 0:
        # Nothing moved: leak events rarer than the window is long remain possible.
        high = GRAIN[unit] * poisson_upper(0, _INTERVAL) / (steps * rise.length)
    return rate, low, high


def _later(known: int) -> int:
    """After half as many samples again, what was uneven stands out or has moved into the warm-up."""
    return math.ceil(known / 2)


def _more(known: int, rise: Rise, bound: float, tolerance: float, unit: Unit) -> int:
    """How many more samples until either a leak shows or the bound is below the tolerance.

    Both get sharper about as the series gets longer.
    """
    factors = [float(_FURTHEST)]
    growth = max(0.0, rise.mean / rise.length)
    if growth < tolerance:
        factors.append((bound - growth) / (tolerance - growth))
    if rise.evenness > 0:
        factors.append(max(rise.needed / rise.evenness, LEAST_RISE[unit] / rise.total))
    # At least a block more: less would look at the same blocks again.
    return max(rise.length, math.ceil(known * min(factors)) + 1 - known)


def _too_short(known: int, start: int, unit: Unit) -> Verdict:
    since = f" since the restart at sample {start}" if start else ""
    why = f"{known} known samples{since}, {SHORTEST} are needed"
    return Verdict("undecided", unit, known, None, None, None, None, SHORTEST - known, evidence=(why,))


def _too_patchy(known: int, length: int, unit: Unit) -> Verdict:
    why = f"only {known} of {length} samples are known, and some blocks have too few to have a trough"
    return Verdict("undecided", unit, known, None, None, None, None, known, evidence=(why,))


def _figures(window: _Window, unit: Unit) -> tuple[str, ...]:
    rise = window.rise
    place = f"the troughs of {len(rise.steps) + 1} blocks of {rise.length} samples"
    moved = (
        f"rose by {_amount(rise.total, unit)}" if rise.total > 0 else f"fell by {_amount(-rise.total, unit)}"
    )
    if rise.total == 0:
        moved = "did not rise"
    figures = [f"{place} {moved}; evenness {rise.evenness:.3g}, {rise.needed:.3g} is evidence"]
    if rise.jump:
        figures.append(f"a single jump of {_amount(rise.jump, unit)} was taken out")
    return tuple(figures)


def _amount(value: float, unit: Unit) -> str:
    if unit != "byte":
        return f"{value:.3g} {'FDs' if unit == 'fd' else 'threads'}"
    return f"{value / MIB:.3g} MiB" if abs(value) >= MIB else f"{value / 1024:.3g} KiB"
