"""From a raw series to the levels that it keeps: the last process life, cut into blocks, one trough each.

What a program holds for a moment (a burst of connections, a batch in memory) is not what it has
lost. The lowest value of a block is; for resident memory, where a lowest sample may be an accident
of the allocator, the 10 % quantile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from amidiag.model import Unit

SHORTEST = 24
"""Fewer samples than this in the last process life decide nothing."""

_ABSURD = 1e100
_QUANTILE = 0.1
_UNITS = ("fd", "thread", "byte")


@dataclass(frozen=True, slots=True)
class Blocks:
    """The troughs of equally long blocks that end with the last sample.

    Attributes:
        length: samples in each block.
        levels: one trough per block.
        positions: index into the life at which each trough was seen.
    """

    length: int
    levels: tuple[float, ...]
    positions: tuple[int, ...]


def check_unit(unit: str) -> None:
    """Raise ValueError for a unit that no series is counted in."""
    if unit not in _UNITS:
        raise ValueError(f"unit is one of {', '.join(_UNITS)}, not {unit!r}")


def last_life(values: Sequence[float], restarts: Sequence[int] = ()) -> tuple[int, list[float]]:
    """Where the last process life starts, and its samples from the first to the last known one.

    A missing sample (NaN, None, infinite, absurdly large) becomes NaN. Restarts outside of the series are ignored.
    """
    start = max((int(r) for r in restarts if 0 < r < len(values)), default=0)
    life = [_known(value) for value in values[start:]]
    end = len(life)
    while end and math.isnan(life[end - 1]):
        end -= 1
    first = 0
    while first < end and math.isnan(life[first]):
        first += 1
    return start + first, life[first:end]


def cut_life(life: Sequence[float], unit: Unit) -> Blocks | None:
    """The blocks of the trough test, fewer where gaps leave no trough in some; None where even eight are too many."""
    known = sum(1 for value in life if not math.isnan(value))
    counts = (16, 12, 8) if known >= 96 else (12, 8) if known >= 48 else (8,)
    return next((blocks for count in counts if (blocks := cut(life, count, unit))), None)


def cut(life: Sequence[float], blocks: int, unit: Unit) -> Blocks | None:
    """Cut a life into at least `blocks` blocks; None where a block has too few known samples to have a trough.

    The blocks are equally long, so that an even rise stays even; what is left over at the start
    is dropped with the warm-up.
    """
    length = len(life) // blocks
    if length < 1:
        return None
    count = len(life) // length
    offset = len(life) - count * length
    levels, positions = [], []
    for start in range(offset, len(life), length):
        trough = _trough(life, start, start + length, unit)
        if trough is None:
            return None
        levels.append(life[trough])
        positions.append(trough)
    return Blocks(length, tuple(levels), tuple(positions))


def _trough(life: Sequence[float], start: int, end: int, unit: Unit) -> int | None:
    """The position of the trough of one block; None with less than a third of its samples known."""
    block = life[start:end]
    known = [i for i, value in enumerate(block) if not math.isnan(value)]
    if len(known) * 3 < end - start:
        return None
    if unit == "byte":
        known.sort(key=block.__getitem__)
        return start + known[int(_QUANTILE * (len(known) - 1))]
    return start + min(known, key=block.__getitem__)


def _known(value: float | None) -> float:
    if value is None:
        return math.nan
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if -_ABSURD < number < _ABSURD else math.nan
