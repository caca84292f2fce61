"""What simulated series are made of: noise, bursts, sawtooths, steps, leaks, from a seed (`random` alone)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from amidiag.model import Unit

KIB, MIB = 1024.0, 1048576.0


@dataclass(frozen=True)
class Series:
    """`rate` is the true growth per sample at the end of the series; None for a healthy one."""

    values: list[float]
    unit: Unit
    rate: float | None = None
    restarts: tuple[int, ...] = field(default=())


Family = Callable[[random.Random, int], Series]


def white(rng: random.Random, n: int, sd: float) -> list[float]:
    return [rng.gauss(0.0, sd) for _ in range(n)]


def autoregressive(rng: random.Random, n: int, phi: float, sd: float) -> list[float]:
    """Noise with correlation `phi` from sample to sample and standard deviation `sd`."""
    step = sd * math.sqrt(1 - phi * phi)
    value, values = rng.gauss(0.0, sd), []
    for _ in range(n):
        value = phi * value + rng.gauss(0.0, step)
        values.append(value)
    return values


def walk(rng: random.Random, n: int, sd: float) -> list[float]:
    value, values = 0.0, []
    for _ in range(n):
        value += rng.gauss(0.0, sd)
        values.append(value)
    return values


def bursts(rng: random.Random, n: int, height: float, busy: float, idle: float) -> list[float]:
    """Jobs of random length that hold extra resources, with idle time between (means in samples)."""
    values: list[float] = []
    while len(values) < n:
        values += [0.0] * (1 + int(rng.expovariate(1 / idle)))
        level = height * rng.uniform(0.3, 1.0)
        values += [round(level * rng.uniform(0.7, 1.0)) for _ in range(1 + int(rng.expovariate(1 / busy)))]
    start = rng.randrange(0, len(values) - n + 1)
    return values[start : start + n]


def sawtooth(rng: random.Random, n: int, height: float, period: float, jitter: float) -> list[float]:
    """Rises evenly, then falls at once: garbage collected now and then."""
    values: list[float] = []
    while len(values) < 2 * n:
        length = max(2, round(period * rng.uniform(1 - jitter, 1 + jitter)))
        values += [height * i / length for i in range(length)]
    start = rng.randrange(0, n)
    return values[start : start + n]


def saturating(n: int, height: float, tau: float) -> list[float]:
    return [height * (1 - math.exp(-t / tau)) for t in range(n)]


def steps(n: int, at: list[tuple[int, float]]) -> list[float]:
    values, level, changes = [], 0.0, dict(at)
    for t in range(n):
        level += changes.get(t, 0.0)
        values.append(level)
    return values


def coupons(rng: random.Random, n: int, keys: int, per_sample: float) -> list[float]:
    """Entries of a cache to which requests with random keys come, a full one for each key."""
    seen: set[int] = set()
    values, due = [], 0.0
    for _ in range(n):
        due += per_sample
        while due >= 1:
            seen.add(rng.randrange(keys))
            due -= 1
        values.append(float(len(seen)))
    return values


def regular_leak(rng: random.Random, n: int, every: float, size: float) -> list[float]:
    """`size` more after every `every` samples, from a random phase."""
    phase = rng.random()
    return [size * math.floor(t / every + phase) for t in range(n)]


def poisson_leak(rng: random.Random, n: int, rate: float) -> list[float]:
    values, level, due = [], 0.0, rng.expovariate(rate)
    for t in range(n):
        while due <= t:
            level += 1
            due += rng.expovariate(rate)
        values.append(level)
    return values


def add(*parts: list[float]) -> list[float]:
    return [math.fsum(column) for column in zip(*parts, strict=True)]


def counts(*parts: list[float]) -> list[float]:
    """A series of whole numbers on a base of 40."""
    return [float(max(0, round(40 + value))) for value in add(*parts)]


def resident(*parts: list[float]) -> list[float]:
    """A series of whole pages on a base of 500 MiB."""
    return [max(0.0, 4096.0 * round((500 * MIB + value) / 4096)) for value in add(*parts)]


def log_uniform(rng: random.Random, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def with_gaps(rng: random.Random, values: list[float]) -> list[float]:
    share, out = rng.uniform(0.02, 0.2), list(values)
    for i in range(len(out)):
        if rng.random() < share:
            out[i] = math.nan
    return out
