"""How evenly troughs rise: the statistic that holds where slopes, ranks and thresholds do not (FACTS 9).

A leak raises the trough of every block by about the same amount; a step, a burst, a sawtooth or a
filling cache raises a few. The steps between troughs are therefore tested against their own spread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import sub

from amidiag.series.quantiles import t_quantile

# Of what an even rise would have been: the second half against the first, the last two steps, the last.
_SECOND_HALF, _LAST_TWO, _LAST = 0.8, 0.6, 0.2
# A step is taken for a single jump if it stands out of the others by that many of their deviations. Not
# among the first two: a growth that slows down begins with such a step.
_JUMP, _JUMP_FROM, _JUMP_STEPS = 10.0, 2, 7
_WALKS = 1.5
# Rounding of floats is no spread.
_ROUNDING = 1e-9

# A stay at one level is long if it is this many times the longest before it; fewer stays tell nothing.
_LONGER, _FEWEST_STAYS = 2, 5


@dataclass(frozen=True, slots=True)
class Rise:
    """The rise of the troughs of one window, a single jump taken out.

    Attributes:
        steps: what each trough stands above the one before; in place of a jump, the mean of the others.
        mean, sd: of the steps that were measured.
        evenness: mean·√k / sd, the T of FACTS 9; infinite for a rise without spread.
        needed: what `evenness` must exceed.
        degrees: degrees of freedom of `sd`.
        jump: size of the jump that was taken out, 0 where there was none.
        length: samples from one trough to the next.
    """

    steps: tuple[float, ...]
    mean: float
    sd: float
    evenness: float
    needed: float
    degrees: int
    jump: float
    length: int

    @property
    def total(self) -> float:
        """How far the troughs rose in the window, without the jump."""
        return math.fsum(self.steps)

    @property
    def second_half(self) -> float:
        """Rise of the second half of the steps, as a share of that of the first; NaN where the first has none."""
        half = len(self.steps) // 2
        first = math.fsum(self.steps[:half])
        return math.fsum(self.steps[-half:]) / first if first > 0 else math.nan

    def evident(self, least: float) -> bool:
        """Whether the troughs rose evenly, by `least` or more."""
        return self.evenness > self.needed and self.total >= least

    def sustained(self) -> bool:
        """Whether the rise goes on at the end as it began."""
        *_, before, last = self.steps
        half = len(self.steps) // 2
        rounding = 1 - _ROUNDING
        return (
            math.fsum(self.steps[-half:]) >= _SECOND_HALF * math.fsum(self.steps[:half]) * rounding
            and before + last >= _LAST_TWO * 2 * self.mean * rounding
            and last >= _LAST * self.mean * rounding
        )

    def margin(self, confidence: float) -> float:
        """One-sided margin of the mean step at `confidence`, by Student's t."""
        return t_quantile(confidence, self.degrees) * self.sd / math.sqrt(self.degrees + 1)


def measure(levels: Sequence[float], length: int, significance: float, *, forgive_jump: bool) -> Rise:
    """Measure the rise of block troughs; at least three levels, `significance` one-sided (0.999)."""
    steps = [b - a for a, b in pairwise(levels)]
    rise = _rise(steps, steps, 0.0, length, significance)
    if rise.evenness > rise.needed or not forgive_jump or len(steps) < _JUMP_STEPS:
        return rise
    largest = max(range(len(steps)), key=steps.__getitem__)
    rest = steps[:largest] + steps[largest + 1 :]
    mean = math.fsum(rest) / len(rest)
    patched = [*steps[:largest], mean, *steps[largest + 1 :]]
    even = _rise(patched, rest, steps[largest] - mean, length, significance)
    stands_out = even.jump > _JUMP * even.sd and largest >= _JUMP_FROM
    return even if stands_out and even.evenness > even.needed else rise


def largest_fall(levels: Sequence[float]) -> float:
    """The furthest that any level lies below an earlier one: what was once given back can be again."""
    top, fall = -math.inf, 0.0
    for level in levels:
        top = max(top, level)
        fall = max(fall, top - level)
    return fall


def grain(window: Sequence[float]) -> float:
    """The usual size of a change from one sample to the next; 0 for a line, whose rate is exact."""
    changes = [change for change in (b - a for a, b in pairwise(window)) if not math.isnan(change)]
    if not changes or max(changes) - min(changes) <= 1e-9 * max(map(abs, changes)):
        return 0.0
    sizes = sorted(abs(change) for change in changes if change)
    return sizes[len(sizes) // 2]


def wanders(window: Sequence[float], length: int) -> bool:
    """Whether a series gets ever further from its trend, as a random walk does, rather than around it.

    A walk is four times as far (in squares) from its trend after a block as after a quarter of it, noise
    and bursts are as far. What never falls does not wander: it only rises.
    """
    if not any(b < a for a, b in pairwise(window)):
        return False
    return _spread(window, length) > _WALKS * _spread(window, max(1, length // 4))


def _spread(window: Sequence[float], lag: int) -> float:
    """Variance of what a series gains in `lag` samples; 0 where too few are known."""
    gains = [gain for gain in map(sub, window[lag:], window) if not math.isnan(gain)]
    if len(gains) < 2:
        return 0.0
    mean = math.fsum(gains) / len(gains)
    return math.fsum((gain - mean) ** 2 for gain in gains) / len(gains)


def residual_variance(x: Sequence[float], y: Sequence[float]) -> float:
    """Variance of y about its least-squares line over x; at least three points, x not constant."""
    count = len(x)
    middle_x, middle_y = math.fsum(x) / count, math.fsum(y) / count
    xx = math.fsum((a - middle_x) ** 2 for a in x)
    xy = math.fsum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    yy = math.fsum((b - middle_y) ** 2 for b in y)
    return max(0.0, yy - xy * xy / xx) / (count - 2)


def _rise(
    steps: Sequence[float], measured: Sequence[float], jump: float, length: int, significance: float
) -> Rise:
    count = len(measured)
    mean = math.fsum(measured) / count
    sd = math.sqrt(math.fsum((step - mean) ** 2 for step in measured) / (count - 1))
    if sd > _ROUNDING * abs(mean):
        evenness = mean * math.sqrt(count) / sd
    else:
        sd, evenness = 0.0, math.copysign(math.inf, mean) if mean else 0.0
    needed = t_quantile(significance, count - 1)
    return Rise(tuple(steps), mean, sd, evenness, needed, count - 1, jump, length)


def has_stopped(life: Sequence[float], length: int) -> bool:
    """Whether the series has at its end kept one level for more than twice as long as ever before.

    `length` is that of a block, in samples; the first quarter is left out as warm-up. The level is what
    the series never fell below again, so bursts do not hide it. A leak that is due again soon shows no
    such stay; growth that has ended shows nothing else.
    """
    known = [value for value in life[len(life) // 4 :] if not math.isnan(value)]
    stays = _stays(known)
    if len(stays) < _FEWEST_STAYS:
        return False
    after = 0
    ending: list[int] = []
    while stays and after <= length // 2:
        ending.append(stays[-1])
        after += stays.pop()
    return bool(stays) and max(ending) > _LONGER * max(stays)


def _stays(values: Sequence[float]) -> list[int]:
    """For how many samples each level was the lowest that was still to come, in order."""
    stays: list[int] = []
    level = math.inf
    for value in reversed(values):
        if value < level or not stays:
            level = value
            stays.append(0)
        stays[-1] += 1
    return stays[::-1]
