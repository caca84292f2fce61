"""Simulated families of resource series, healthy and leaking, from a seed (`random` alone).

Each family draws its own parameters per series, so that a rate over many series is a rate over
the family and not over one lucky choice. Sizes of memory are bytes; the period, burst and
plateau lengths are chosen so that a healthy series shows within its length that it is healthy:
a cache that is still filling when the series ends looks like a leak to every method (FACTS 9).
"""

from __future__ import annotations

from families_healthy import HEALTHY, LIMITS
from families_leaking import LEAKING
from series_pieces import (
    MIB,
    Family,
    Series,
    bursts,
    counts,
    log_uniform,
    poisson_leak,
    regular_leak,
    sawtooth,
)

LENGTHS = (60, 100, 200, 350, 500, 1000, 2000, 5000)

__all__ = [
    "HEALTHY",
    "LEAKING",
    "LENGTHS",
    "LIMITS",
    "MIB",
    "Family",
    "Series",
    "bursts",
    "counts",
    "log_uniform",
    "poisson_leak",
    "regular_leak",
    "sawtooth",
]
