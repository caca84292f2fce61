"""Leaking families, each with its true rate."""

from __future__ import annotations

import math
import random

from series_pieces import (
    KIB,
    MIB,
    Family,
    Series,
    autoregressive,
    bursts,
    counts,
    log_uniform,
    poisson_leak,
    regular_leak,
    resident,
    saturating,
    sawtooth,
    steps,
    walk,
    white,
    with_gaps,
)


def exact_leak(rng: random.Random, n: int) -> Series:
    rate = rng.choice((0.25, 0.5, 1.0, 2.0))
    return Series(counts(regular_leak(rng, n, max(1.0, 1 / rate), max(1.0, rate))), "fd", rate)


def slow_exact_leak(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.01, 0.2), 10 / n)
    return Series(counts(regular_leak(rng, n, 1 / rate, 1.0)), "fd", rate)


def hundredth_leak(rng: random.Random, n: int) -> Series:
    return Series(counts(regular_leak(rng, n, 100.0, 1.0)), "fd", 0.01)


def hundredth_poisson(rng: random.Random, n: int) -> Series:
    return Series(counts(poisson_leak(rng, n, 0.01)), "fd", 0.01)


def poisson_leak_fds(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.05, 2), 30 / n)
    return Series(counts(poisson_leak(rng, n, rate)), "fd", rate)


def leak_under_noise(rng: random.Random, n: int) -> Series:
    rate, spread = max(log_uniform(rng, 0.02, 2), 20 / n), rng.randint(1, 10)
    noise = [float(rng.randint(0, spread)) for _ in range(n)]
    return Series(counts([rate * t for t in range(n)], noise), "fd", rate)


def leak_under_bursts(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.05, 2), 20 / n)
    busy, idle = rng.uniform(1, n / 60), rng.uniform(2, n / 60)
    return Series(counts(poisson_leak(rng, n, rate), bursts(rng, n, 40.0, busy, idle)), "fd", rate)


def leak_in_sawtooth(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.05, 2), 20 / n)
    shape = sawtooth(rng, n, log_uniform(rng, 5, 100), rng.uniform(3, n / 20), 0.2)
    return Series(counts([rate * t for t in range(n)], shape), "fd", rate)


def leak_after_warm_up(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.05, 2), 20 / n)
    shape = saturating(n, log_uniform(rng, 5, 100), n / rng.uniform(12, 60))
    return Series(counts([rate * t for t in range(n)], shape), "fd", rate)


def thread_leak(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.02, 1), 15 / n)
    noise = [float(rng.randint(0, 2)) for _ in range(n)]
    return Series(counts(regular_leak(rng, n, 1 / rate, 1.0), noise), "thread", rate)


def quarter_mib_in_noise(rng: random.Random, n: int) -> Series:
    noise = autoregressive(rng, n, rng.choice((0.0, 0.5, 0.8)), log_uniform(rng, 1, 20) * MIB)
    return Series(resident([256 * KIB * t for t in range(n)], noise), "byte", 256 * KIB)


def quarter_mib_in_sawtooth(rng: random.Random, n: int) -> Series:
    shape = sawtooth(rng, n, log_uniform(rng, 5, 100) * MIB, rng.uniform(3, max(4.0, n / 20)), 0.3)
    return Series(resident([256 * KIB * t for t in range(n)], shape, white(rng, n, MIB)), "byte", 256 * KIB)


def leak_and_walk(rng: random.Random, n: int) -> Series:
    noise = walk(rng, n, 256 * KIB * math.sqrt(n) / rng.uniform(8, 30))
    return Series(resident([256 * KIB * t for t in range(n)], noise), "byte", 256 * KIB)


def leak_steps_late(rng: random.Random, n: int) -> Series:
    """A steady leak, and one large step in its last third."""
    rate = max(log_uniform(rng, 0.1, 2), 20 / n)
    step = steps(n, [(int(n * rng.uniform(0.65, 0.9)), rate * n * rng.uniform(0.2, 2))])
    return Series(counts([rate * t for t in range(n)], step), "fd", rate)


def leak_steps_early(rng: random.Random, n: int) -> Series:
    rate = max(log_uniform(rng, 0.1, 2), 20 / n)
    step = steps(n, [(int(n * rng.uniform(0.0, 0.2)), rate * n * rng.uniform(0.2, 2))])
    return Series(counts([rate * t for t in range(n)], step), "fd", rate)


def leak_after_restart(rng: random.Random, n: int) -> Series:
    rate, cut = max(log_uniform(rng, 0.1, 2), 30 / n), int(n * rng.uniform(0.1, 0.4))
    values = counts([rate * (t if t < cut else t - cut) for t in range(n)])
    return Series(values, "fd", rate, (cut,))


def leak_starts_late(rng: random.Random, n: int) -> Series:
    """Flat for 0.3 to 0.6 of the series."""
    rate, start = max(log_uniform(rng, 0.1, 2), 30 / n), n * rng.uniform(0.3, 0.6)
    noise = [float(rng.randint(0, rng.choice((0, 1, 3)))) for _ in range(n)]
    return Series(counts([rate * max(0.0, t - start) for t in range(n)], noise), "fd", rate)


def intermittent_leak(rng: random.Random, n: int) -> Series:
    """Several at a time, every so many cycles, at least 14 times."""
    every = rng.uniform(2, n / 14)
    size = float(rng.randint(1, 10))
    return Series(counts(regular_leak(rng, n, every, size)), "fd", size / every)


def leak_with_gaps(rng: random.Random, n: int) -> Series:
    series = leak_under_noise(rng, n)
    return Series(with_gaps(rng, series.values), series.unit, series.rate)


def leak_and_cache(rng: random.Random, n: int) -> Series:
    rate = 256 * KIB
    shape = saturating(n, log_uniform(rng, 5, 100) * MIB, n / rng.uniform(10, 40))
    noise = autoregressive(rng, n, 0.5, rng.uniform(0.5, 5) * MIB)
    return Series(resident([rate * t for t in range(n)], shape, noise), "byte", rate)


def overshoot_then_leak(rng: random.Random, n: int) -> Series:
    """Start-up needs much memory for a moment."""
    rate, peak = 256 * KIB, log_uniform(rng, 50, 1000) * MIB
    shape = [peak if t < n * 0.04 else 0.0 for t in range(n)]
    return Series(resident([rate * t for t in range(n)], shape, white(rng, n, MIB)), "byte", rate)


LEAKING: dict[str, Family] = {
    f.__name__: f
    for f in (
        exact_leak, slow_exact_leak, hundredth_leak, hundredth_poisson, poisson_leak_fds, leak_under_noise,
        leak_under_bursts, leak_in_sawtooth, leak_after_warm_up, thread_leak, quarter_mib_in_noise,
        quarter_mib_in_sawtooth, leak_and_walk, leak_steps_late, leak_steps_early, leak_after_restart,
        leak_starts_late, intermittent_leak, leak_with_gaps, leak_and_cache, overshoot_then_leak,
    )
}  # fmt: skip
