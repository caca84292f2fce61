"""The most that a series can be growing by: what `stable` certifies."""

from __future__ import annotations

from collections.abc import Sequence

from amidiag.model import Unit
from amidiag.series.blocks import Blocks
from amidiag.series.certificate import EARLY_STOPPING, MIB, cycles_kept, quiet_cycles
from amidiag.series.quantiles import poisson_upper, t_quantile
from amidiag.series.rise import measure

CONFIDENCE = 0.99
"""One-sided confidence of the bound."""

GRAIN: dict[Unit, float] = {"fd": 1.0, "thread": 1.0, "byte": float(MIB)}
"""The smallest amount whose loss shows: one FD, one thread, one arena of Python's allocator."""

# With looks after every so many samples the bound of a single look is passed by luck too often.
_CONFIDENCE_OF_LOOKS = 0.999
# Beyond this many leaked FDs counting them adds nothing to the t bound.
_COUNTABLE = 30
# Above this quantile of t the troughs still lean upwards, too much to be called stable.
_LEANING = 0.8
_STANDS_OUT = 3.0


def upper_bound(
    life: Sequence[float], blocks: Blocks, first: int, unit: Unit, *, early_stopping: bool
) -> float:
    """The growth per sample that the troughs from block `first` on leave possible, one-sided.

    By Student's t over the steps between troughs. FDs and threads are also counted: a series that
    keeps coming back to one level has no spread, and says no more than that no leak event was seen
    in so many samples; the bound is then Poisson's.
    """
    levels = blocks.levels[first:]
    steps = len(levels) - 1
    rise = measure(levels, blocks.length, CONFIDENCE, forgive_jump=False)
    spread = (rise.mean + rise.margin(_CONFIDENCE_OF_LOOKS if early_stopping else CONFIDENCE)) / blocks.length
    factor = EARLY_STOPPING if early_stopping else 1.0
    unseen = GRAIN[unit] * factor * poisson_upper(0, CONFIDENCE)
    if unit == "byte":
        return max(spread, unseen / (steps * blocks.length))
    lost = levels[-1] - min(levels)
    if lost > _COUNTABLE:
        return spread
    comes_back = _comes_back(levels)
    if comes_back and lost == 0 and (quiet := quiet_cycles(life, unit)):
        return unseen / quiet
    counted = factor * poisson_upper(int(lost), CONFIDENCE) / (steps * blocks.length)
    return counted if comes_back else max(spread, counted)


def leans_upwards(life: Sequence[float], blocks: Blocks, first: int, unit: Unit) -> bool:
    """Whether troughs that show no evident rise are yet too much like one to be called stable.

    They rise more than they spread, the last stands out, or the level to which the series kept coming
    back has been left for longer than ever before.
    """
    levels = blocks.levels[first:]
    rise = measure(levels, 1, CONFIDENCE, forgive_jump=False)
    least = GRAIN[unit] / 2
    if rise.total >= least and rise.evenness > t_quantile(_LEANING, rise.degrees):
        return True
    *before, last = levels
    mean = sum(before) / len(before)
    sd = (sum((level - mean) ** 2 for level in before) / len(before)) ** 0.5
    if last > max(before) and last - mean > max(_STANDS_OUT * sd, least):
        return True
    return unit != "byte" and _comes_back(levels) and not cycles_kept(life, blocks.positions[first], unit)


def _comes_back(levels: tuple[float, ...]) -> bool:
    """Whether one level is the trough of at least a third of the blocks: what is left when nothing is in use."""
    return 3 * levels.count(min(levels)) >= len(levels)
