"""Looks at growing intervals, and an early end."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import families
import pytest

from amidiag.model import Verdict
from amidiag.series import Sequential, certify, judge


def drive(sequential: Sequential, values: Iterable[float]) -> tuple[int, Verdict | None]:
    """Feed values until decided: how many were fed, and the decision."""
    fed = 0
    for value in values:
        sequential.add(value)
        fed += 1
        decided = sequential.look()
        if decided is not None:
            return fed, decided
    return fed, None


def test_an_exact_leak_is_said_at_the_second_look() -> None:
    fed, verdict = drive(Sequential(), (40.0 + 2 * i for i in range(1000)))
    assert verdict is not None
    assert (fed, verdict.kind, verdict.rate) == (250, "leak", 2.0)


def test_looks_come_a_quarter_later_each() -> None:
    sequential = Sequential(tolerance=0.0)
    looks = [sequential.next_look]
    for _ in range(700):
        sequential.add(40.0)
        sequential.look()
        if sequential.next_look != looks[-1]:
            looks.append(sequential.next_look)
    assert looks == [200, 250, 313, 392, 490, 613, 767]


def test_no_look_before_the_warm_up_is_over() -> None:
    fed, verdict = drive(Sequential(warm_up=400), (40.0 + 2 * i for i in range(1000)))
    assert verdict is not None
    assert (fed, verdict.kind) == (500, "leak")


def test_a_flat_series_is_certified_at_the_first_look_whose_length_allows_it() -> None:
    fed, verdict = drive(Sequential(), [40.0] * 2000)
    assert verdict is not None
    assert (fed, verdict.kind) == (767, "stable")
    fed, verdict = drive(Sequential(tolerance=0.1), [40.0] * 2000)
    assert verdict is not None
    assert (fed, verdict.kind) == (200, "stable")


def test_before_two_looks_agree_a_leak_is_called_growing() -> None:
    sequential = Sequential()
    values = [40.0 + 2 * i for i in range(260)]
    for value in values[:100]:
        sequential.add(value)
    assert judge(values[:100]).kind == "leak"
    early = sequential.verdict()
    assert (early.kind, early.rate, early.samples_needed) == ("growing", 2.0, 150)
    assert "two looks in a row" in early.evidence[-1]
    for value in values[100:200]:
        sequential.add(value)
    assert sequential.look() is None
    assert sequential.verdict().samples_needed == 50
    for value in values[200:250]:
        sequential.add(value)
    assert sequential.verdict().kind == "growing"  # the second look is due, but was not made
    assert sequential.look() is not None
    assert sequential.verdict() == judge(values[:250])


def test_what_is_decided_stays_decided_until_a_restart() -> None:
    sequential = Sequential(tolerance=0.1)
    _, verdict = drive(sequential, [40.0] * 200)
    for i in range(400):
        sequential.add(40.0 + 2 * i)
        assert sequential.look() is verdict
    sequential.restart()
    assert sequential.decided is None
    assert sequential.next_look == 200
    assert sequential.verdict().samples == 0
    fed, verdict = drive(sequential, (40.0 + 2 * i for i in range(1000)))
    assert verdict is not None
    assert (fed, verdict.kind) == (250, "leak")


def test_too_few_samples_are_said_to_be() -> None:
    sequential = Sequential()
    sequential.add(40.0)
    assert sequential.look() is None
    assert sequential.verdict().kind == "undecided"
    assert sequential.verdict().samples_needed == 23


@pytest.mark.parametrize(("bound", "cycles"), [(0.1, 67), (0.02, 335), (0.01, 670)])
def test_where_the_certificate_is_reached_the_verdict_is_stable(bound: float, cycles: int) -> None:
    """The soak stops at the certificate and then asks for the verdict: both must say the same."""
    for extra in range(8):
        values = [40.0] * (cycles + 1 + extra)
        certificate = certify(values)
        assert certificate is not None
        assert certificate.events_per_cycle_bound <= bound
        sequential = Sequential(tolerance=bound)
        for value in values:
            sequential.add(value)
        assert sequential.verdict().kind == "stable"


def test_senseless_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="unit"):
        Sequential("pages")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance"):
        Sequential(tolerance=-1.0)


def test_a_tenth_of_an_fd_under_bursts_of_forty_is_found_in_some_hundred_cycles() -> None:
    found = []
    for seed in range(60):
        rng = random.Random(seed)
        leak = families.regular_leak(rng, 2000, 10.0, 1.0)
        fed, verdict = drive(
            Sequential(), (40 + lost + rng.choice((0, 1)) * rng.randint(1, 40) for lost in leak)
        )
        assert verdict is not None
        assert verdict.kind == "leak"
        found.append(fed)
    assert sorted(found)[30] <= 313


# What has settled, or is due to, before the first look; the others are told by `warm_up` when they have.
STATIONARY = (
    "constant", "integer_noise", "job_bursts", "job_bursts_bytes", "few_steps", "single_step", "step_bytes",
    "log_growth", "log_growth_bytes", "high_water", "ar_noise", "ar_noise_bytes", "random_walk",
    "random_walk_fds", "bounded_pool", "heavy_tails", "falling", "gaps_healthy",
)  # fmt: skip


@pytest.mark.parametrize("family", STATIONARY)
def test_no_healthy_family_is_called_a_leak_at_any_look(family: str) -> None:
    for seed in range(15):
        rng = random.Random(f"{family} {seed}")
        series = families.HEALTHY[family](rng, 1500)
        _, verdict = drive(Sequential(series.unit), series.values)
        assert verdict is None or verdict.kind == "stable"


@pytest.mark.parametrize("family", ["poisson_leak_fds", "leak_under_bursts", "quarter_mib_in_noise"])
def test_no_leak_is_certified_as_stable_at_any_look(family: str) -> None:
    for seed in range(25):
        series = families.LEAKING[family](random.Random(f"{family} {seed}"), 1500)
        assert series.rate is not None
        sequential = Sequential(series.unit, tolerance=series.rate / 1.5)
        _, verdict = drive(sequential, series.values)
        assert verdict is None or verdict.kind == "leak"


def test_missing_samples_count_for_the_looks_but_not_as_evidence() -> None:
    sequential = Sequential()
    for i in range(250):
        sequential.add(math.nan if i % 5 == 0 else 40.0 + 2 * i)
        sequential.look()
    assert sequential.verdict().kind == "leak"
    assert sequential.verdict().samples == 200
