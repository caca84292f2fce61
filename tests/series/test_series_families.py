"""Rates over simulated families, from fixed seeds.

`benchmarks/verdicts.py` measures the same with thousands of series per family.
"""

from __future__ import annotations

import random
from collections import Counter

import families
import pytest

from amidiag.model import Verdict
from amidiag.series import judge

LENGTHS = (60, 100, 200, 500, 1000)
PER_LENGTH = 24

# The least share of series called a leak, lengths from 200 up.
POWER = {
    "exact_leak": 1.0,
    "slow_exact_leak": 0.75,
    "poisson_leak_fds": 0.65,
    "leak_under_noise": 0.85,
    "leak_under_bursts": 0.6,
    "leak_in_sawtooth": 0.95,
    "leak_after_warm_up": 0.9,
    "thread_leak": 0.85,
    "quarter_mib_in_noise": 0.5,
    "quarter_mib_in_sawtooth": 0.75,
    "leak_and_walk": 0.8,
    "leak_steps_late": 0.95,
    "leak_steps_early": 0.95,
    "leak_after_restart": 0.95,
    "leak_starts_late": 0.95,
    "intermittent_leak": 0.9,
    "leak_with_gaps": 0.8,
    "leak_and_cache": 0.6,
    "overshoot_then_leak": 0.95,
}


def verdicts(
    family: str, make: families.Family, lengths: tuple[int, ...] = LENGTHS
) -> list[tuple[families.Series, Verdict]]:
    judged = []
    for n in lengths:
        for i in range(PER_LENGTH):
            series = make(random.Random(f"{family} {n} {i}"), n)
            judged.append((series, judge(series.values, series.unit, series.restarts)))
    return judged


@pytest.mark.parametrize("family", sorted(families.HEALTHY))
def test_no_healthy_series_is_called_a_leak(family: str) -> None:
    kinds = Counter(verdict.kind for _, verdict in verdicts(family, families.HEALTHY[family]))
    # A random walk may be, once in a thousand; of 120 one is already unlikely.
    assert kinds["leak"] <= 1
    assert kinds.total() == len(LENGTHS) * PER_LENGTH


def test_hardly_any_healthy_series_is_called_a_leak_over_all_families() -> None:
    leaks = Counter(
        family
        for family, make in families.HEALTHY.items()
        for _, verdict in verdicts(family, make, (60, 150, 400))
        if verdict.kind == "leak"
    )
    assert leaks.total() <= 2


@pytest.mark.parametrize("family", sorted(POWER))
def test_leaks_are_found(family: str) -> None:
    judged = verdicts(family, families.LEAKING[family], (200, 500, 1000))
    found = sum(verdict.kind == "leak" for _, verdict in judged)
    assert found / len(judged) >= POWER[family]


@pytest.mark.parametrize("family", sorted(families.LEAKING))
def test_the_interval_covers_the_true_rate(family: str) -> None:
    judged = verdicts(family, families.LEAKING[family])
    covered = 0
    for series, verdict in judged:
        assert series.rate is not None
        assert verdict.low is not None
        assert verdict.high is not None
        slack = 1e-9 * series.rate
        covered += verdict.low - slack <= series.rate <= verdict.high + slack
    # 120 series of a rule that covers 95 % cover 108 or more, but once in a hundred families.
    assert covered >= 0.9 * len(judged)


def test_intervals_cover_in_95_of_100_over_all_families() -> None:
    covered, total = 0, 0
    for family, make in families.LEAKING.items():
        for series, verdict in verdicts(family, make, (150, 400)):
            if series.rate is not None and verdict.low is not None and verdict.high is not None:
                covered += verdict.low * (1 - 1e-9) <= series.rate <= verdict.high * (1 + 1e-9)
                total += 1
    assert covered / total >= 0.95


@pytest.mark.parametrize("family", sorted(families.LEAKING))
def test_a_leak_above_the_tolerance_is_never_called_stable(family: str) -> None:
    for n in LENGTHS:
        for i in range(PER_LENGTH):
            series = families.LEAKING[family](random.Random(f"{family} {n} {i}"), n)
            assert series.rate is not None
            verdict = judge(series.values, series.unit, series.restarts, tolerance=series.rate / 1.5)
            assert verdict.kind != "stable"


@pytest.mark.parametrize("family", ["constant", "integer_noise", "job_bursts", "falling", "heavy_tails"])
def test_what_is_flat_is_certified_when_it_is_long_enough(family: str) -> None:
    judged = verdicts(family, families.HEALTHY[family], (2000,))
    assert sum(verdict.kind == "stable" for _, verdict in judged) >= 0.8 * len(judged)
