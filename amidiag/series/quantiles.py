"""Quantiles of Student's t and exact Poisson bounds, from the standard library alone.

scipy would cost a second of start-up (FACTS 9) for two functions.
"""

from __future__ import annotations

import math
from functools import lru_cache

_TINY = 1e-300
_BISECTIONS = 200


def t_survival(t: float, dof: float) -> float:
    """P(T > t) for Student's t with `dof` degrees of freedom.

    Through the regularised incomplete beta function (Abramowitz and Stegun 26.7.1), so that far
    tails keep their relative precision.
    """
    if dof <= 0:
        raise ValueError(f"degrees of freedom must be positive, not {dof}")
    if t == math.inf:
        return 0.0
    if t == -math.inf:
        return 1.0
    tail = 0.5 * _incomplete_beta(dof / (dof + t * t), dof / 2, 0.5)
    return tail if t >= 0 else 1.0 - tail


@lru_cache(maxsize=512)
def t_quantile(p: float, dof: float) -> float:
    """The `p` quantile of Student's t with `dof` degrees of freedom, 0 < p < 1."""
    if not 0.0 < p < 1.0:
        raise ValueError(f"a quantile needs 0 < p < 1, not {p}")
    if p < 0.5:
        return -t_quantile(1.0 - p, dof)
    wanted = 1.0 - p
    low, high = 0.0, 1.0
    while t_survival(high, dof) > wanted:
        low, high = high, high * 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if t_survival(middle, dof) > wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@lru_cache(maxsize=512)
def poisson_upper(events: int, confidence: float) -> float:
    """The exact upper bound (Garwood 1936) of a Poisson mean after `events` events were counted."""
    if events < 0:
        raise ValueError(f"events are counted, they cannot be {events}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence lies between 0 and 1, it cannot be {confidence}")
    low, high = 0.0, events + 1.0
    while _poisson_cdf(events, high) > 1.0 - confidence:
        low, high = high, high * 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if _poisson_cdf(events, middle) > 1.0 - confidence:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _poisson_cdf(events: int, mean: float) -> float:
    """P(N <= events), summed from the largest term down: no underflow for large means."""
    term = math.exp(events * math.log(mean) - mean - math.lgamma(events + 1))
    total = 0.0
    for k in range(events, -1, -1):
        total += term
        term *= k / mean
        if term < total * 1e-17:
            break
    return total


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction, on the side where that converges fast."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    if x < (a + 1) / (a + b + 2):
        return front * _beta_fraction(x, a, b) / a
    return 1.0 - front * _beta_fraction(1.0 - x, b, a) / b


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Lentz's evaluation of the continued fraction of the incomplete beta function (DLMF 8.17.22)."""
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 400):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1.0 / _away_from_zero(1.0 + coefficient * d)
            c = _away_from_zero(1.0 + coefficient / c)
            value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
