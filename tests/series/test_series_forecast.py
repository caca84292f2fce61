"""When a growing resource reaches its limit."""

from __future__ import annotations

import random
from dataclasses import replace

import families
import pytest

from amidiag.model import Verdict
from amidiag.series import forecast, judge


def test_an_exact_leak_has_an_exact_end() -> None:
    values = [40.0 + 2 * i for i in range(100)]
    left = forecast(values, judge(values), limit=1024, name="nofile", seconds_per_sample=5.0)
    assert left is not None
    assert left.limit == "nofile"
    # 238 are open at the last sample; 393 samples later, 1024.
    assert left.in_seconds == pytest.approx(393 * 5.0)
    assert left.low is not None
    assert left.high is not None
    assert 392 * 5.0 <= left.low <= left.in_seconds <= left.high <= 394 * 5.0


def test_it_is_the_bursts_that_hit_the_limit() -> None:
    calm = [40.0 + i for i in range(200)]
    busy = [value + (100 if i % 5 == 3 else 0) for i, value in enumerate(calm)]
    ends = [
        forecast(values, judge(values), limit=1000, name="nofile", seconds_per_sample=1.0)
        for values in (calm, busy)
    ]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].in_seconds == pytest.approx(761)
    assert ends[1].in_seconds == pytest.approx(661, rel=0.02)


def test_what_does_not_grow_has_no_end() -> None:
    flat = [40.0] * 500
    assert forecast(flat, judge(flat), limit=1024, name="nofile", seconds_per_sample=1.0) is None
    short = [40.0 + i for i in range(10)]
    assert forecast(short, judge(short), limit=1024, name="nofile", seconds_per_sample=1.0) is None
    verdict = replace(judge([40.0 + i for i in range(100)]), rate=0.0)
    assert forecast(flat[:100], verdict, limit=1024, name="nofile", seconds_per_sample=1.0) is None


def test_a_limit_that_is_reached_is_reached_now() -> None:
    values = [40.0 + 2 * i for i in range(100)]
    left = forecast(values, judge(values), limit=238, name="nofile", seconds_per_sample=1.0)
    assert left is not None
    assert (left.in_seconds, left.low) == (0.0, 0.0)


def test_a_rate_that_may_be_nought_has_no_latest_end() -> None:
    values = [40.0 + 2 * i for i in range(100)]
    unsure = replace(judge(values), low=-0.5, high=4.5)
    left = forecast(values, unsure, limit=1024, name="nofile", seconds_per_sample=1.0)
    assert left is not None
    assert left.low is not None
    assert left.high is None
    assert 0 < left.low < left.in_seconds
    bare = Verdict("leak", "fd", 100, 2.0, None, None, None, None)
    left = forecast(values, bare, limit=1024, name="nofile", seconds_per_sample=1.0)
    assert left is not None
    assert (left.low, left.high) == (None, None)


def test_the_last_life_is_what_counts() -> None:
    values = [900.0] * 50 + [40.0 + 2 * i for i in range(100)]
    verdict = judge(values, restarts=[50])
    left = forecast(values, verdict, limit=1024, name="nofile", seconds_per_sample=1.0, restarts=[50])
    assert left is not None
    assert left.in_seconds == pytest.approx(393)


def test_error_and_coverage_over_simulated_leaks_run_to_their_end() -> None:
    errors, covered = [], []
    for seed in range(240):
        rng = random.Random(seed)
        n, rate = rng.choice((200, 400)), families.log_uniform(rng, 0.1, 1.0)
        leak = rng.choice(
            (families.regular_leak(rng, 6 * n, 1 / rate, 1.0), families.poisson_leak(rng, 6 * n, rate))
        )
        disturbance = rng.choice((
            [0.0] * (6 * n),
            [float(rng.randint(0, 9)) for _ in range(6 * n)],
            families.sawtooth(rng, 6 * n, 50.0, rng.uniform(3, 20), 0.2),
            families.bursts(rng, 6 * n, 40.0, rng.uniform(1, 8), rng.uniform(2, 8)),
        ))  # fmt: skip
        values = families.counts(leak, disturbance)
        verdict = judge(values[:n])
        limit = max(values[:n]) + rate * n * rng.uniform(0.2, 3)
        hit = next((i for i in range(n, 6 * n) if values[i] >= limit), None)
        if verdict.kind != "leak" or hit is None:
            continue
        left = forecast(values[:n], verdict, limit=limit, name="nofile", seconds_per_sample=1.0)
        assert left is not None
        assert left.low is not None
        true = hit - (n - 1)
        errors.append(abs(left.in_seconds - true) / true)
        covered.append(left.low <= true and (left.high is None or true <= left.high))
    assert len(errors) > 120
    assert sorted(errors)[len(errors) // 2] < 0.1
    assert sum(covered) / len(covered) >= 0.95
