"""What an independent corpus found: growth that has ended, and counters read a sample apart."""

import random

import pytest

from amidiag.series import find_driver, judge
from amidiag.series.rise import has_stopped


@pytest.mark.parametrize("n", [100, 250, 1000])
def test_growth_that_has_ended_is_no_leak(n) -> None:
    end = 9 * n // 10
    ramp = [100.0 + min(i, end) for i in range(n)]
    verdict = judge(ramp)
    assert verdict.kind == "growing"
    assert any("rise may be over" in line for line in verdict.evidence)
    assert judge([100.0 + i for i in range(n)]).kind == "leak"


def test_a_leak_of_one_in_many_cycles_has_not_stopped() -> None:
    assert judge([float(i // 25) for i in range(1000)]).kind == "leak"
    assert not has_stopped([float(i // 25) for i in range(1000)], 50)
    assert has_stopped([float(min(i, 850)) for i in range(1000)], 50)
    assert not has_stopped([], 5)
    assert not has_stopped([7.0] * 100, 5)


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_the_driver_is_found_where_counters_are_read_a_sample_earlier_or_later(shift) -> None:
    rng = random.Random(1)
    polls, loaders, batches = [0.0], [0.0], [0.0]
    for _ in range(251):
        built = rng.choice((0, 1, 1, 2))
        polls.append(polls[-1] + 1)
        loaders.append(loaders[-1] + built)
        batches.append(batches[-1] + rng.choice((0, built, 3)))
    fds = [10 + 2 * loaders[min(251, max(0, i + shift))] for i in range(252)]
    driver = find_driver(fds, {"polls": polls, "loaders": loaders, "batches": batches, "seconds": polls})
    assert driver.name == "loaders"
    assert driver.rate is not None
    assert driver.rate.value == pytest.approx(2.0)
