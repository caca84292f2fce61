"""Quantiles against printed tables."""

from __future__ import annotations

import math

import pytest

from amidiag.series.quantiles import poisson_upper, t_quantile, t_survival

# One-sided quantiles of Student's t as printed in tables, by degrees of freedom.
T_TABLE = {
    0.95: {1: 6.314, 2: 2.920, 4: 2.132, 10: 1.812, 30: 1.697, 120: 1.658},
    0.975: {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042, 120: 1.980},
    0.99: {1: 31.821, 2: 6.965, 4: 3.747, 10: 2.764, 30: 2.457, 120: 2.358},
    0.999: {1: 318.309, 2: 22.327, 4: 7.173, 7: 4.785, 8: 4.501, 10: 4.144, 12: 3.930, 30: 3.385, 120: 3.160},
    0.9995: {1: 636.619, 2: 31.599, 4: 8.610, 10: 4.587, 30: 3.646, 120: 3.373},
}


@pytest.mark.parametrize(
    ("p", "degrees", "expected"),
    [(p, degrees, value) for p, row in T_TABLE.items() for degrees, value in row.items()],
)
def test_t_quantile_agrees_with_the_table(p: float, degrees: int, expected: float) -> None:
    assert t_quantile(p, degrees) == pytest.approx(expected, abs=0.0006)
    assert t_quantile(1 - p, degrees) == pytest.approx(-expected, abs=0.0006)


def test_t_has_the_closed_forms_of_one_and_two_degrees_of_freedom() -> None:
    assert t_quantile(0.75, 1) == pytest.approx(1.0, rel=1e-12)
    assert t_survival(3.0, 1) == pytest.approx(0.5 - math.atan(3.0) / math.pi, rel=1e-12)
    assert t_survival(3.0, 2) == pytest.approx(0.5 - 3.0 / (2 * math.sqrt(11.0)), rel=1e-12)


def test_t_becomes_normal_with_many_degrees_of_freedom() -> None:
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)


def test_quantile_and_survival_are_inverse_far_in_the_tail() -> None:
    for p in (0.5, 0.6, 0.999, 0.9998, 1 - 1e-9):
        assert t_survival(t_quantile(p, 11), 11) == pytest.approx(1 - p, rel=1e-6)
    assert t_survival(math.inf, 5) == 0.0
    assert t_survival(-math.inf, 5) == 1.0


@pytest.mark.parametrize(
    ("events", "confidence", "expected"),
    [(0, 0.95, 2.9957), (1, 0.95, 4.7439), (10, 0.95, 16.9622), (0, 0.99, 4.6052), (5, 0.99, 13.1085)],
)
def test_poisson_bound_agrees_with_the_table(events: int, confidence: float, expected: float) -> None:
    assert poisson_upper(events, confidence) == pytest.approx(expected, abs=0.0002)


def test_poisson_bound_of_many_events_is_near_the_normal_one() -> None:
    assert poisson_upper(10_000, 0.975) == pytest.approx(10_000 + 1.96 * 100, abs=4)


def test_arguments_outside_of_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < p < 1"):
        t_quantile(1.0, 5)
    with pytest.raises(ValueError, match="positive"):
        t_survival(1.0, 0)
    with pytest.raises(ValueError, match="counted"):
        poisson_upper(-1, 0.95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        poisson_upper(1, 1.0)
