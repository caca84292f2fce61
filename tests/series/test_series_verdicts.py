"""Canned series, the exact verdict for each."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from typing import Any

import pytest

from amidiag.model import Verdict
from amidiag.series import TOLERANCE, judge
from amidiag.series.blocks import cut, last_life
from amidiag.series.rise import largest_fall, measure

NAN = math.nan
MIB = 1048576.0


def said(verdict: Verdict) -> str:
    return " | ".join(verdict.evidence)


# --- leak -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [24, 47, 60, 95, 100, 127, 500, 5000])
def test_two_fds_in_every_cycle_are_a_leak_of_exactly_two(n: int) -> None:
    verdict = judge([47.0 + 2 * i for i in range(n)])
    assert (verdict.kind, verdict.rate, verdict.low, verdict.high) == ("leak", 2.0, 2.0, 2.0)
    assert verdict.samples == n
    assert verdict.samples_needed is None
    assert verdict.upper_bound is not None
    assert verdict.upper_bound >= 2.0
    assert "rose by" in said(verdict)
    assert "refuted if" in said(verdict)


def test_an_exact_staircase_is_a_leak_and_its_interval_knows_the_step() -> None:
    verdict = judge([40.0 + i // 7 for i in range(300)])
    assert verdict.kind == "leak"
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < 1 / 7 < verdict.high
    assert verdict.high - verdict.low < 0.05


def test_a_leak_of_memory_is_judged_in_bytes() -> None:
    rng = random.Random(1)
    verdict = judge([5e8 + 256 * 1024 * i + rng.gauss(0, MIB) for i in range(300)], unit="byte")
    assert verdict.kind == "leak"
    assert verdict.unit == "byte"
    assert verdict.rate == pytest.approx(256 * 1024, rel=0.1)
    assert "MiB" in said(verdict)


def test_threads_are_counted_like_fds() -> None:
    verdict = judge([9.0 + i // 5 for i in range(200)], unit="thread")
    assert verdict.kind == "leak"
    assert "threads" in said(verdict)


def test_a_leak_under_bursts_is_seen_in_the_troughs() -> None:
    rng = random.Random(2)
    verdict = judge([40 + i // 10 + rng.choice((0, 0, 40)) for i in range(400)])
    assert verdict.kind == "leak"
    assert verdict.rate == pytest.approx(0.1, rel=0.15)


def test_a_leak_that_steps_once_late_is_a_leak_without_the_step() -> None:
    verdict = judge([40 + i + (500 if i >= 400 else 0) for i in range(500)])
    assert verdict.kind == "leak"
    assert verdict.rate == pytest.approx(1.0, rel=0.01)
    assert "a single jump of 500 FDs was taken out" in said(verdict)


def test_a_leak_that_begins_half_way_is_found_in_the_second_half() -> None:
    verdict = judge([40 + 2 * max(0, i - 200) for i in range(400)])
    assert verdict.kind == "leak"
    assert verdict.rate == pytest.approx(2.0)


def test_missing_samples_leave_the_rate_per_sample_as_it_is() -> None:
    values = [47.0 + 2 * i for i in range(300)]
    rng = random.Random(3)
    for i in rng.sample(range(300), 60):
        values[i] = NAN
    verdict = judge(values)
    assert verdict.kind == "leak"
    assert verdict.samples == 240
    assert verdict.rate == pytest.approx(2.0, rel=0.02)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low <= 2.0 <= verdict.high


def test_only_the_last_life_is_judged() -> None:
    leak_then_flat = [40.0 + 2 * i for i in range(300)] + [40.0] * 600
    assert judge(leak_then_flat, restarts=[300]).kind == "stable"
    flat_then_leak = [40.0] * 300 + [40.0 + 2 * i for i in range(100)]
    verdict = judge(flat_then_leak, restarts=[100, 300])
    assert (verdict.kind, verdict.rate, verdict.samples) == ("leak", 2.0, 100)


# --- growing --------------------------------------------------------------------------------------


def test_a_rise_that_ends_is_growing_and_may_settle() -> None:
    verdict = judge([40 + min(i, 160) for i in range(200)])
    assert verdict.kind == "growing"
    assert verdict.samples_needed == 100
    assert "may settle" in said(verdict)


def test_growth_that_slows_from_the_start_is_growing() -> None:
    verdict = judge([40 + round(30 * math.log1p(i / 4)) for i in range(500)])
    assert verdict.kind == "growing"


def test_a_rise_no_higher_than_what_was_given_back_before_is_growing() -> None:
    """A sawtooth longer than what was judged: one fall in the warm-up, then one even rise."""
    verdict = judge([40 + (i + 160) % 240 for i in range(300)])
    assert verdict.kind == "growing"
    assert "given back before" in said(verdict)


# --- stable ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["fd", "thread"])
def test_a_constant_series_is_certified_after_462_samples(unit: Any) -> None:
    assert judge([40.0] * 461, unit=unit).kind == "undecided"
    verdict = judge([40.0] * 462, unit=unit)
    assert verdict.kind == "stable"
    assert (verdict.rate, verdict.low) == (0.0, 0.0)
    assert verdict.high is not None
    assert verdict.high > 0
    assert verdict.upper_bound is not None
    assert 0 < verdict.upper_bound <= TOLERANCE["fd"]
    assert "excluded at 99 %" in said(verdict)


def test_constant_memory_is_certified_after_108_samples() -> None:
    assert judge([5e8] * 107, unit="byte").kind == "undecided"
    assert judge([5e8] * 108, unit="byte").kind == "stable"


def test_a_wider_tolerance_is_certified_sooner() -> None:
    assert judge([40.0] * 60, tolerance=0.1).kind == "stable"
    assert judge([40.0] * 60, tolerance=0.05).kind == "undecided"
    assert judge([40.0] * 5000, tolerance=0.0).kind == "undecided"


def test_a_falling_series_does_not_grow() -> None:
    verdict = judge([3000.0 - i for i in range(1000)])
    assert verdict.kind == "stable"
    assert verdict.rate == -1.0


def test_bursts_that_come_back_to_the_same_level_are_stable() -> None:
    rng = random.Random(4)
    assert judge([40.0 + rng.choice((0, 0, 0, 25)) for _ in range(600)]).kind == "stable"


def test_noisy_memory_without_growth_is_stable() -> None:
    rng = random.Random(5)
    assert judge([5e8 + rng.gauss(0, 2 * MIB) for _ in range(600)], unit="byte").kind == "stable"


def test_a_plateau_after_warm_up_is_stable() -> None:
    assert judge([40.0 + round(60 * (1 - math.exp(-i / 20))) for i in range(1000)]).kind == "stable"


@pytest.mark.parametrize("at", [5, 100, 400, 590, 600, 740, 790])
@pytest.mark.parametrize("height", [1, 7, 400])
def test_a_single_step_is_never_a_leak(at: int, height: int) -> None:
    assert judge([40.0 + (height if i >= at else 0) for i in range(800)]).kind in ("stable", "undecided")


def test_a_step_just_before_the_end_is_not_called_stable() -> None:
    assert judge([40.0] * 740 + [47.0] * 60).kind == "undecided"


# --- undecided ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(24))
def test_fewer_than_24_samples_decide_nothing(n: int) -> None:
    verdict = judge([40.0 + 2 * i for i in range(n)])
    assert verdict == Verdict("undecided", "fd", n, None, None, None, None, 24 - n, evidence=verdict.evidence)
    assert "24 are needed" in said(verdict)


def test_a_short_last_life_is_said() -> None:
    verdict = judge([40.0 + 2 * i for i in range(300)], restarts=[290])
    assert (verdict.kind, verdict.samples, verdict.samples_needed) == ("undecided", 10, 14)
    assert "since the restart at sample 290" in said(verdict)


def test_nothing_known_is_undecided() -> None:
    assert judge([NAN] * 500).samples == 0
    assert judge([math.inf] * 500).kind == "undecided"
    assert judge([]).samples_needed == 24


def test_a_long_gap_cannot_be_bridged() -> None:
    values = [40.0 + 2 * i if i < 100 or i > 400 else NAN for i in range(500)]
    verdict = judge(values)
    assert verdict.kind == "undecided"
    assert "too few to have a trough" in said(verdict)
    assert verdict.samples_needed is not None


def test_a_slow_leak_is_undecided_until_it_shows() -> None:
    assert judge([40.0 + i // 100 for i in range(300)]).kind == "undecided"
    assert judge([40.0 + i // 100 for i in range(2000)]).kind == "leak"


@pytest.mark.parametrize("n", [30, 60, 100, 250, 300, 440])
def test_the_samples_said_to_be_needed_are_enough_for_a_flat_series(n: int) -> None:
    needed = judge([40.0] * n).samples_needed
    assert needed is not None
    assert judge([40.0] * (n + needed)).kind == "stable"
    assert judge([40.0] * (n + needed // 2)).kind == "undecided"


def test_the_samples_said_to_be_needed_are_about_enough_for_a_leak() -> None:
    rng = random.Random(6)
    noise = [rng.randint(0, 12) for _ in range(4000)]
    values = [40.0 + 0.05 * i + noise[i] for i in range(4000)]
    verdict = judge(values[:150])
    assert verdict.kind == "undecided"
    assert verdict.samples_needed is not None
    assert judge(values[: 150 + 2 * verdict.samples_needed]).kind == "leak"


# --- whatever is thrown at it ---------------------------------------------------------------------


def test_restarts_outside_of_the_series_are_ignored() -> None:
    values = [40.0 + 2 * i for i in range(100)]
    assert judge(values, restarts=[-5, 0, 100, 10_000]) == judge(values)


def test_unknown_values_of_every_kind_are_missing_samples() -> None:
    values: list[Any] = [47.0 + 2 * i for i in range(300)]
    values[10], values[50], values[51], values[299] = None, math.inf, -math.inf, 10**400
    verdict = judge(values)
    assert (verdict.kind, verdict.samples) == ("leak", 296)


def test_whole_numbers_tuples_and_ranges_are_series() -> None:
    assert judge(range(100)).rate == 1.0
    assert judge(tuple(range(100))).kind == "leak"


def test_no_series_makes_it_fail() -> None:
    rng = random.Random(7)
    strange = (0.0, -0.0, 1.0, -1.0, 5e-324, 1e-9, 1e15, 1e99, -1e99, 1e308, -1e308, NAN, math.inf, -math.inf)
    for _ in range(1500):
        n = rng.choice((0, 1, 23, 24, 25, 31, 48, 60, 97, 130, 300))
        few = rng.sample(strange, rng.randint(1, 4))
        values = [rng.choice(few) for _ in range(n)]
        if rng.random() < 0.3:
            values = sorted(values, key=lambda value: (math.isnan(value), value))
        restarts = [rng.randint(-3, n + 3) for _ in range(rng.randint(0, 3))]
        verdict = judge(
            values, rng.choice(("fd", "thread", "byte")), restarts, rng.choice((None, 0.0, 0.5, 1e9))
        )
        assert verdict.kind in ("leak", "growing", "stable", "undecided")
        assert (verdict.samples_needed is None) == (verdict.kind in ("leak", "stable"))
        assert verdict.samples_needed is None or verdict.samples_needed > 0
        assert verdict.evidence
        figures = (verdict.rate, verdict.low, verdict.high, verdict.upper_bound)
        assert all(figure is None or math.isfinite(figure) for figure in figures)  # JSON knows no infinity
        if verdict.rate is not None:
            assert verdict.low is not None
            assert verdict.high is not None
            assert verdict.low <= verdict.rate <= verdict.high


def test_an_unknown_unit_or_a_senseless_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match="unit is one of fd, thread, byte"):
        judge([1.0] * 30, unit="pages")  # type: ignore[arg-type]
    for tolerance in (-0.1, NAN):
        with pytest.raises(ValueError, match="tolerance"):
            judge([1.0] * 30, tolerance=tolerance)


def test_it_is_the_standard_library_alone() -> None:
    program = (
        "import sys; before = set(sys.modules); import amidiag.series; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['amidiag']"


# --- the parts ------------------------------------------------------------------------------------


def test_blocks_are_equally_long_and_end_with_the_last_sample() -> None:
    blocks = cut([float(i) for i in range(111)], 16, "fd")
    assert blocks is not None
    assert blocks.length == 6
    assert blocks.positions == tuple(range(3, 111, 6))


def test_a_trough_is_the_minimum_of_counts_and_the_tenth_percentile_of_bytes() -> None:
    life = [5.0, 9.0, 1.0, 7.0, 3.0, 8.0, 6.0, 4.0, 2.0, 9.5, 9.9] * 2
    counted, memory = cut(life, 2, "fd"), cut(life, 2, "byte")
    assert counted is not None
    assert memory is not None
    assert counted.levels == (1.0, 1.0)
    assert memory.levels == (2.0, 2.0)


def test_a_block_with_less_than_a_third_known_has_no_trough() -> None:
    assert cut([1.0, NAN, NAN, NAN, 1.0, 1.0, 1.0, 1.0], 2, "fd") is None
    assert cut([1.0, 1.0, NAN, NAN, 1.0, 1.0, 1.0, 1.0], 2, "fd") is not None


def test_the_last_life_begins_at_the_last_restart_without_unknown_ends() -> None:
    start, life = last_life([1.0, 2.0, NAN, 3.0, 4.0, NAN], [1, 2])
    assert (start, life) == (3, [3.0, 4.0])


def test_evenness_is_the_mean_step_over_its_standard_error() -> None:
    rise = measure([0.0, 1.0, 3.0, 4.0, 6.0], 10, 0.999, forgive_jump=False)
    assert rise.mean == 1.5
    assert rise.sd == pytest.approx(math.sqrt(1 / 3))
    assert rise.evenness == pytest.approx(1.5 * 2 / math.sqrt(1 / 3))
    assert rise.second_half == 1.0


def test_the_largest_fall_is_from_any_earlier_level() -> None:
    assert largest_fall([1.0, 9.0, 7.0, 8.0, 2.0, 20.0]) == 7.0
    assert largest_fall([1.0, 2.0, 3.0]) == 0.0
