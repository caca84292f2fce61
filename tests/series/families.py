"""Simulated families of resource series, healthy and leaking, from a seed (`random` alone).

Each family draws its own parameters per series, so that a rate over many series is a rate over
the family and not over one lucky choice. Sizes of memory are bytes; the period, burst and
plateau lengths are chosen so that a healthy series shows within its length that it is healthy:
a cache that is still filling when the series ends looks like a leak to every method (FACTS 9).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from amidiag.model import Unit

KIB, MIB = 1024.0, 1048576.0
LENGTHS = (60, 100, 200, 350, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Series:
    """`rate` is the true growth per sample at the end of the series; None for a healthy one."""

    values: list[float]
    unit: Unit
    rate: float | None = None
    restarts: tuple[int, ...] = field(default=())


Family = Callable[[random.Random, int], Series]


# --- pieces ---------------------------------------------------------------------------------------


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


# --- healthy --------------------------------------------------------------------------------------


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


# --- leaking --------------------------------------------------------------------------------------


def with_gaps(rng: random.Random, values: list[float]) -> list[float]:
    share, out = rng.uniform(0.02, 0.2), list(values)
    for i in range(len(out)):
        if rng.random() < share:
            out[i] = math.nan
    return out


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
LIMITS: dict[str, Family] = {f.__name__: f for f in (slow_log_growth, still_filling, fragmentation)}
"""Healthy in the end, but still rising when the series ends: no method can tell (FACTS 9, "Limits")."""
LEAKING: dict[str, Family] = {
    f.__name__: f
    for f in (
        exact_leak, slow_exact_leak, hundredth_leak, hundredth_poisson, poisson_leak_fds, leak_under_noise,
        leak_under_bursts, leak_in_sawtooth, leak_after_warm_up, thread_leak, quarter_mib_in_noise,
        quarter_mib_in_sawtooth, leak_and_walk, leak_steps_late, leak_steps_early, leak_after_restart,
        leak_starts_late, intermittent_leak, leak_with_gaps, leak_and_cache, overshoot_then_leak,
    )
}  # fmt: skip
