"""How rare leak events must be after so many cycles without one."""

from __future__ import annotations

import math
import random

import pytest

from amidiag.series import certify, cycles_for, events_bound


def test_lengths_are_those_of_the_facts() -> None:
    assert cycles_for(1 / 10) == 67
    assert cycles_for(1 / 100) == 670
    assert cycles_for(1 / 50) == 335
    assert cycles_for(1 / 10, confidence=0.95) == 44


def test_bound_and_length_are_inverse() -> None:
    for rate in (0.5, 0.1, 0.02, 0.003):
        cycles = cycles_for(rate)
        assert events_bound(cycles) <= rate < events_bound(cycles - 1)


def test_67_quiet_cycles_certify_fewer_than_one_event_in_ten() -> None:
    # 68 samples: the level before the first cycle, and after each of 67.
    certificate = certify([40.0] * 68)
    assert certificate is not None
    assert (certificate.cycles, certificate.confidence) == (67, 0.99)
    assert certificate.events_per_cycle_bound == pytest.approx(0.09997, abs=1e-4)


def test_bursts_that_go_back_are_no_leak_events() -> None:
    values = [40.0, 40.0, 65.0, 65.0, 65.0] * 40 + [40.0]
    certificate = certify(values)
    assert certificate is not None
    assert certificate.cycles == 200
    # Ending within a burst no longer than those before is no event either, but certifies no more.
    certificate = certify([*values, 70.0, 70.0])
    assert certificate is not None
    assert certificate.cycles == 200


def test_a_level_that_was_left_is_a_rise() -> None:
    assert certify([40.0] * 80 + [41.0] * 20) is None
    assert certify([40.0, 55.0] * 40 + [55.0] * 10) is None
    assert certify([40.0 + i // 10 for i in range(100)]) is None


def test_a_rise_within_the_first_quarter_is_warm_up() -> None:
    certificate = certify([10.0 + 3 * min(i, 20) for i in range(100)])
    assert certificate is not None
    assert certificate.cycles == 74
    assert certify([10.0 + 3 * min(i, 30) for i in range(100)]) is None


def test_unknown_samples_are_no_evidence() -> None:
    values = [40.0] * 60
    values[10:20] = [math.nan] * 10
    certificate = certify(values)
    assert certificate is not None
    assert certificate.cycles == 49
    assert certify([40.0, *[math.nan] * 50]) is None
    assert certify([]) is None


def test_memory_keeps_its_level_within_an_arena() -> None:
    rng = random.Random(1)
    values = [5e8 + rng.uniform(0, 900_000) for _ in range(100)]
    certificate = certify(values, unit="byte")
    assert certificate is not None
    assert certificate.cycles > 90
    assert certify([value + 50_000 * i for i, value in enumerate(values)], unit="byte") is None


def test_the_bound_holds_for_leaks_at_the_certified_rate_with_a_look_after_every_cycle() -> None:
    """A leak of 1 in 10 may be certified as rarer in 1 % of runs, however often one looks."""
    wrong, runs = 0, 700
    for seed in range(runs):
        rng = random.Random(seed)
        level, values = 40.0, [40.0]
        for _ in range(200):
            level += rng.random() < 0.1
            values.append(level)
            if len(values) > 67:
                quiet = certify(values)
                if quiet is not None and quiet.events_per_cycle_bound <= 0.1:
                    wrong += 1
                    break
    assert wrong <= 0.01 * runs + 3 * math.sqrt(0.01 * runs)


def test_arguments_outside_of_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        cycles_for(0.0)
    with pytest.raises(ValueError, match="at least one cycle"):
        events_bound(0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        certify([1.0] * 50, confidence=1.0)
    with pytest.raises(ValueError, match="unit"):
        certify([1.0] * 50, unit="pages")  # type: ignore[arg-type]
