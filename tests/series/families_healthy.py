"""Healthy families. Periods, bursts and plateaus are short enough to show within the series that it is healthy."""

from __future__ import annotations

import math
import random

from series_pieces import (
    MIB,
    Family,
    Series,
    autoregressive,
    bursts,
    counts,
    coupons,
    log_uniform,
    resident,
    saturating,
    sawtooth,
    steps,
    walk,
    white,
    with_gaps,
)


def constant(rng: random.Random, n: int) -> Series:
    return Series([float(rng.randint(3, 500))] * n, "fd")


def integer_noise(rng: random.Random, n: int) -> Series:
    spread = rng.randint(1, 20)
    return Series([40.0 + rng.randint(0, spread) for _ in range(n)], "fd")


def job_bursts(rng: random.Random, n: int) -> Series:
    height, busy, idle = log_uniform(rng, 4, 80), rng.uniform(1, n / 20), rng.uniform(1, n / 20)
    return Series(counts(bursts(rng, n, height, busy, idle)), "fd")


def long_jobs(rng: random.Random, n: int) -> Series:
    """Jobs longer than a block: some blocks have no idle sample."""
    height = log_uniform(rng, 4, 80)
    return Series(counts(bursts(rng, n, height, n / rng.uniform(4, 15), n / rng.uniform(8, 40))), "fd")


def job_bursts_bytes(rng: random.Random, n: int) -> Series:
    height, busy, idle = log_uniform(rng, 20, 2000) * MIB, rng.uniform(1, n / 20), rng.uniform(1, n / 20)
    return Series(resident(bursts(rng, n, height, busy, idle), white(rng, n, 2 * MIB)), "byte")


def long_jobs_bytes(rng: random.Random, n: int) -> Series:
    height = log_uniform(rng, 20, 2000) * MIB
    shape = bursts(rng, n, height, n / rng.uniform(4, 15), n / rng.uniform(8, 40))
    return Series(resident(shape, autoregressive(rng, n, 0.9, 3 * MIB)), "byte")


def threads_on_demand(rng: random.Random, n: int) -> Series:
    """A pool that makes threads up to its limit as they are asked for."""
    limit = rng.randint(4, 64)
    return Series(counts(coupons(rng, n, limit, limit * rng.uniform(8, 60) / n)), "thread")


def warm_up_plateau(rng: random.Random, n: int) -> Series:
    shape = saturating(n, log_uniform(rng, 5, 300), n / rng.uniform(8, 60))
    noise = [float(rng.randint(0, rng.choice((0, 1, 4)))) for _ in range(n)]
    return Series(counts(shape, noise), "fd")


def slow_warm_up(rng: random.Random, n: int) -> Series:
    """Still settling in the part that is judged."""
    shape = saturating(n, log_uniform(rng, 5, 300), n / rng.uniform(2.5, 8))
    noise = [float(rng.randint(0, rng.choice((0, 1, 4)))) for _ in range(n)]
    return Series(counts(shape, noise), "fd")


def warm_up_bytes(rng: random.Random, n: int) -> Series:
    shape = saturating(n, log_uniform(rng, 10, 1000) * MIB, n / rng.uniform(2.5, 40))
    noise = autoregressive(rng, n, rng.uniform(0, 0.9), log_uniform(rng, 0.1, 20) * MIB)
    return Series(resident(shape, noise), "byte")


def linear_warm_up(rng: random.Random, n: int) -> Series:
    """Rises evenly for up to 0.8 of the series, then stays."""
    end, height = n * rng.uniform(0.05, 0.8), log_uniform(rng, 5, 500)
    noise = [float(rng.randint(0, rng.choice((0, 1, 4)))) for _ in range(n)]
    return Series(counts([height * min(1.0, t / end) for t in range(n)], noise), "fd")


def gc_sawtooth(rng: random.Random, n: int) -> Series:
    shape = sawtooth(rng, n, log_uniform(rng, 5, 200), rng.uniform(3, n / 4), rng.choice((0.0, 0.1, 0.5)))
    return Series(counts(shape), "fd")


def gc_sawtooth_bytes(rng: random.Random, n: int) -> Series:
    height = log_uniform(rng, 5, 500) * MIB
    shape = sawtooth(rng, n, height, rng.uniform(3, n / 4), rng.choice((0.0, 0.1, 0.5)))
    return Series(resident(shape, white(rng, n, height * rng.choice((0.0, 0.02, 0.1)))), "byte")


def long_sawtooth(rng: random.Random, n: int) -> Series:
    """Longer than a block, up to 0.7 of the series: few falls are seen."""
    shape = sawtooth(rng, n, log_uniform(rng, 5, 200), n * rng.uniform(0.25, 0.7), 0.05)
    return Series(counts(shape), "fd")


def aliased_sawtooth(rng: random.Random, n: int) -> Series:
    """A period near a whole number of blocks."""
    block = n / 16
    period = block * rng.randint(1, 3) * rng.uniform(0.97, 1.03)
    return Series(counts(sawtooth(rng, n, log_uniform(rng, 5, 200), period, 0.0)), "fd")


def few_steps(rng: random.Random, n: int) -> Series:
    at = [(rng.randrange(n), float(rng.randint(1, 50))) for _ in range(rng.randint(2, 6))]
    return Series(counts(steps(n, at)), "fd")


def equal_steps(rng: random.Random, n: int) -> Series:
    size = float(rng.randint(1, 20))
    return Series(counts(steps(n, [(rng.randrange(n), size) for _ in range(rng.randint(2, 6))])), "fd")


def single_step(rng: random.Random, n: int) -> Series:
    noise = [float(rng.randint(0, rng.choice((0, 2, 10)))) for _ in range(n)]
    return Series(counts(steps(n, [(rng.randrange(n), log_uniform(rng, 1, 400))]), noise), "fd")


def step_bytes(rng: random.Random, n: int) -> Series:
    shape = steps(n, [(rng.randrange(n), log_uniform(rng, 2, 1000) * MIB) for _ in range(rng.randint(1, 3))])
    return Series(resident(shape, autoregressive(rng, n, 0.7, log_uniform(rng, 0.1, 10) * MIB)), "byte")


def up_and_down(rng: random.Random, n: int) -> Series:
    height = log_uniform(rng, 2, 100)
    first = rng.randrange(n)
    at = [(first, height), (min(n - 1, first + rng.randrange(n)), -height)]
    return Series(counts(steps(n, at), [float(rng.randint(0, 3)) for _ in range(n)]), "fd")


def staircase_to_plateau(rng: random.Random, n: int) -> Series:
    """Even steps (an arena, a pool) that end before 0.8 of the series."""
    end, count = n * rng.uniform(0.2, 0.8), rng.randint(3, 12)
    size = float(rng.randint(1, 10))
    return Series(counts([size * math.floor(count * min(1.0, t / end)) for t in range(n)]), "fd")


def doubling_arena(rng: random.Random, n: int) -> Series:
    """A buffer that doubles each time that it is outgrown."""
    start = n / rng.uniform(20, 200)
    shape = [2.0 ** max(0, math.floor(math.log2(max(1.0, t / start)))) * 4 * MIB for t in range(n)]
    return Series(resident(shape, white(rng, n, 0.2 * MIB)), "byte")


def cache_fills(rng: random.Random, n: int) -> Series:
    """Random keys into a cache; full by 0.7 of the series at the latest."""
    keys = rng.randint(10, 300)
    per_sample = keys * (math.log(keys) + 1) / (n * rng.uniform(0.1, 0.7))
    return Series(counts(coupons(rng, n, keys, per_sample)), "fd")


def cache_to_limit(rng: random.Random, n: int) -> Series:
    """Fills evenly up to its limit (an LRU cache), with noise."""
    end, height = n * rng.uniform(0.1, 0.8), log_uniform(rng, 10, 1000) * MIB
    noise = autoregressive(rng, n, 0.5, height * rng.choice((0.001, 0.02, 0.1)))
    return Series(resident([height * min(1.0, t / end) for t in range(n)], noise), "byte")


def two_caches(rng: random.Random, n: int) -> Series:
    """A second kind of job comes late and fills its own cache."""
    second, tau = n * rng.uniform(0.1, 0.6), n / rng.uniform(6, 40)
    height = log_uniform(rng, 10, 500) * MIB
    shape = [
        height * (1 - math.exp(-t / tau))
        + (height * (1 - math.exp(-(t - second) / tau)) if t > second else 0)
        for t in range(n)
    ]
    return Series(resident(shape, autoregressive(rng, n, 0.5, height * 0.02)), "byte")


def log_growth(rng: random.Random, n: int) -> Series:
    scale, tau = log_uniform(rng, 2, 100), log_uniform(rng, 1, n / 20)
    noise = [float(rng.randint(0, rng.choice((0, 2, 10)))) for _ in range(n)]
    return Series(counts([scale * math.log1p(t / tau) for t in range(n)], noise), "fd")


def log_growth_bytes(rng: random.Random, n: int) -> Series:
    scale, tau = log_uniform(rng, 1, 100) * MIB, log_uniform(rng, 1, n / 20)
    noise = autoregressive(rng, n, rng.choice((0.0, 0.5, 0.9)), log_uniform(rng, 0.3, 30) * MIB)
    return Series(resident([scale * math.log1p(t / tau) for t in range(n)], noise), "byte")


def slow_log_growth(rng: random.Random, n: int) -> Series:
    """Slows within the series, but hardly: the time constant is up to its length."""
    scale, tau = log_uniform(rng, 10, 500), log_uniform(rng, n / 20, n)
    noise = [float(rng.randint(0, rng.choice((0, 1, 4)))) for _ in range(n)]
    return Series(counts([scale * math.log1p(t / tau) for t in range(n)], noise), "fd")


def still_filling(rng: random.Random, n: int) -> Series:
    """A cache whose time constant is half to all of the series."""
    height = log_uniform(rng, 10, 500) * MIB
    noise = white(rng, n, height * rng.choice((0.0, 0.01, 0.03)))
    return Series(resident(saturating(n, height, n * rng.uniform(0.5, 1.0)), noise), "byte")


def high_water(rng: random.Random, n: int) -> Series:
    """Memory that is not given back: the largest job so far."""
    top, shape = 0.0, []
    sigma = rng.uniform(0.3, 1.2)
    for _ in range(n):
        top = max(top, 20 * MIB * math.exp(rng.gauss(0.0, sigma)))
        shape.append(top)
    return Series(resident(shape, autoregressive(rng, n, 0.5, rng.uniform(0.2, 4) * MIB)), "byte")


def ar_noise(rng: random.Random, n: int) -> Series:
    return Series(counts(autoregressive(rng, n, rng.choice((0.5, 0.9, 0.97)), log_uniform(rng, 1, 10))), "fd")


def ar_noise_bytes(rng: random.Random, n: int) -> Series:
    noise = autoregressive(rng, n, rng.choice((0.5, 0.9, 0.97, 0.995)), log_uniform(rng, 1, 60) * MIB)
    return Series(resident(noise), "byte")


def random_walk(rng: random.Random, n: int) -> Series:
    return Series(resident(walk(rng, n, log_uniform(rng, 0.05, 4) * MIB)), "byte")


def random_walk_fds(rng: random.Random, n: int) -> Series:
    return Series(counts([200.0] * n, walk(rng, n, log_uniform(rng, 0.2, 3))), "fd")


def bounded_pool(rng: random.Random, n: int) -> Series:
    """Connections come and go between none and a limit."""
    limit, level, values = rng.randint(3, 40), 0, []
    level = rng.randint(0, limit)
    for _ in range(n):
        level = min(limit, max(0, level + rng.choice((-1, 0, 1))))
        values.append(float(level))
    return Series(counts(values), "fd")


def telegraph(rng: random.Random, n: int) -> Series:
    """Switches between levels at random times."""
    mean, height, level, shape = n / rng.uniform(3, 60), log_uniform(rng, 2, 60), 0.0, []
    for _ in range(n):
        if rng.random() < 1 / mean:
            level = height * rng.choice((0, 1, 2))
        shape.append(level)
    return Series(counts(shape), "fd")


def day_and_night(rng: random.Random, n: int) -> Series:
    period, phase = n / rng.uniform(1.5, 8), rng.uniform(0, 2 * math.pi)
    height = log_uniform(rng, 3, 100)
    shape = [height * (1 + math.sin(2 * math.pi * t / period + phase)) for t in range(n)]
    return Series(counts(shape, [float(rng.randint(0, 3)) for _ in range(n)]), "fd")


def heavy_tails(rng: random.Random, n: int) -> Series:
    return Series(resident([min(4e9, MIB * rng.paretovariate(1.3)) for _ in range(n)]), "byte")


def falling(rng: random.Random, n: int) -> Series:
    slope = log_uniform(rng, 0.01, 2)
    noise = [float(rng.randint(0, rng.choice((0, 3)))) for _ in range(n)]
    return Series(counts([slope * (n - t) for t in range(n)], noise), "fd")


def restarts_healthy(rng: random.Random, n: int) -> Series:
    """Two to four lives, each warming up anew; the restarts are known."""
    cuts = sorted(rng.sample(range(1, n), rng.randint(1, 3)))
    values: list[float] = []
    for start, end in zip([0, *cuts], [*cuts, n], strict=True):
        life = end - start
        values += counts(
            saturating(life, 60.0, max(1.0, life / rng.uniform(5, 40))),
            [float(rng.randint(0, 3)) for _ in range(life)],
        )
    return Series(values, "fd", restarts=tuple(cuts))


def restarts_unknown(rng: random.Random, n: int) -> Series:
    """A leak whose restarts bring it back, with no restart told: it may not be called a leak."""
    shape = sawtooth(rng, n, 100.0, n / rng.uniform(2.5, 6), 0.3)
    return Series(counts(shape), "fd")


def garbage_and_noise(rng: random.Random, n: int) -> Series:
    height = log_uniform(rng, 10, 200) * MIB
    parts = (
        sawtooth(rng, n, height, rng.uniform(5, n / 6), 0.3),
        autoregressive(rng, n, 0.9, height * 0.2),
        saturating(n, height, n / rng.uniform(6, 20)),
    )
    return Series(resident(*parts), "byte")


def gaps_healthy(rng: random.Random, n: int) -> Series:
    series = job_bursts(rng, n)
    return Series(with_gaps(rng, series.values), "fd")


def fragmentation(rng: random.Random, n: int) -> Series:
    """A walk whose drift fades."""
    shape, level = [], 0.0
    step = log_uniform(rng, 0.02, 0.5) * MIB
    for t in range(n):
        level += abs(rng.gauss(0.0, step)) * (1 / (1 + 20 * t / n)) + rng.gauss(0.0, step / 3)
        shape.append(level)
    return Series(resident(shape), "byte")


HEALTHY: dict[str, Family] = {
    f.__name__: f
    for f in (
        constant, integer_noise, job_bursts, long_jobs, job_bursts_bytes, long_jobs_bytes, threads_on_demand,
        warm_up_plateau, slow_warm_up, warm_up_bytes, linear_warm_up, gc_sawtooth, gc_sawtooth_bytes,
        long_sawtooth, aliased_sawtooth, few_steps, equal_steps, single_step, step_bytes, up_and_down,
        staircase_to_plateau, doubling_arena, cache_fills, cache_to_limit, two_caches, log_growth,
        log_growth_bytes, high_water, ar_noise, ar_noise_bytes, random_walk, random_walk_fds, bounded_pool,
        telegraph, day_and_night, heavy_tails, falling, restarts_healthy, restarts_unknown,
        garbage_and_noise, gaps_healthy,
    )
}  # fmt: skip
LIMITS: dict[str, Family] = {
    f.__name__: f
    for f in (
        slow_log_growth,
        still_filling,
        fragmentation,
    )
}
"""Healthy in the end, but still rising when the series ends: no method can tell (FACTS 9, "Limits")."""
