"""How rare leak events must be, after so many cycles without one.

A **leak event** is a cycle after which the series never again comes back to the level that it kept
before: its troughs have risen. Bursts that go back are none. Events are bounded, not what one event
leaks (FACTS 9, "Limits").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from amidiag.model import Certificate, Unit
from amidiag.series.blocks import check_unit, last_life

# Looking after every cycle and stopping at the first success makes 99 % of a fixed length less than
# 99 %; this factor on the length pays for it (measured, FACTS 9).
EARLY_STOPPING = 1.4545

MIB = 1 << 20
# Resident memory never comes back to the very page; the allocator's arenas are 1 MiB (obmalloc, since 3.10).
_SAME_LEVEL: dict[Unit, float] = {"fd": 0.0, "thread": 0.0, "byte": float(MIB)}


def cycles_for(events_per_cycle: float, confidence: float = 0.99) -> int:
    """How many cycles without a leak event certify fewer than `events_per_cycle`, with early stopping.

    67 cycles for 1 in 10, 670 for 1 in 100. Raises ValueError outside of 0 < rate and 0 < confidence < 1.
    """
    if not events_per_cycle > 0:
        raise ValueError(f"a certificate needs a rate above 0, not {events_per_cycle}")
    return math.ceil(_events(confidence) / events_per_cycle)


def events_bound(cycles: int, confidence: float = 0.99) -> float:
    """Leak events per cycle that `cycles` without one leave possible, with early stopping."""
    if cycles < 1:
        raise ValueError(f"a certificate needs at least one cycle, not {cycles}")
    return _events(confidence) / cycles


def certify(values: Sequence[float], confidence: float = 0.99, unit: Unit = "fd") -> Certificate | None:
    """What the last process life certifies; one value per cycle, read at the end of it, NaN where missing.

    None where the level rose after the first quarter (which may be warm-up), or where too little was
    seen to tell. The cycles counted are those between the first and the last visit to the level that
    was kept. Raises ValueError for an unknown unit or a confidence outside of 0 to 1.
    """
    check_unit(unit)
    _events(confidence)
    _, life = last_life(values)
    quiet = quiet_cycles(life, unit)
    return Certificate(quiet, events_bound(quiet, confidence), confidence) if quiet else None


def quiet_cycles(life: Sequence[float], unit: Unit) -> int:
    """Cycles for which the series has kept its level, up to its end; 0 where it has risen.

    The whole life counts if its level was kept from the start, else what follows the first quarter.
    """
    return cycles_kept(life, 0, unit) or cycles_kept(life, len(life) // 4, unit)


def cycles_kept(life: Sequence[float], start: int, unit: Unit) -> int:
    """Cycles between the first and the last visit to the lowest level since `start`; 0 where it was left.

    It was left if it has not been visited for longer than it ever was between two visits before.
    """
    known = [value for value in life[start:] if not math.isnan(value)]
    if len(known) < 2:
        return 0
    level = min(known) + _SAME_LEVEL[unit]
    # An unknown sample is no evidence that the level was left: time is counted in known samples.
    visits = [i for i, value in enumerate(known) if value <= level]
    longest = max((b - a for a, b in pairwise(visits)), default=0)
    away = len(known) - 1 - visits[-1]
    return visits[-1] - visits[0] if away <= longest else 0


def _events(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies between 0 and 1, it cannot be {confidence}")
    return EARLY_STOPPING * math.log(1.0 / (1.0 - confidence))
