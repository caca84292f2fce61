"""What a series of observations allows to be said."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.model.words import Unit, VerdictKind


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a series allows to be said.

    Attributes:
        kind: `leak`, `growing` (rising, may still settle), `stable` (certified below a bound)
            or `undecided`.
        rate: growth per sample, in the unit of the series; None where no estimate is possible.
        low, high: ends of the interval of `rate` at `confidence`.
        upper_bound: one-sided bound of the growth per sample that `stable` certifies.
        samples_needed: with `undecided` and `growing`, how many further samples are needed.
        evidence: the figures behind it, and what would refute it, for people.
    """

    kind: VerdictKind
    unit: Unit
    samples: int
    rate: float | None
    low: float | None
    high: float | None
    upper_bound: float | None
    samples_needed: int | None
    confidence: float = 0.95
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rate:
    """Growth per one step of a counter, or per second, with its interval."""

    per: str
    value: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True, slots=True)
class Exhaustion:
    """When a limit is reached if growth goes on as measured, in seconds from the last sample."""

    limit: str
    in_seconds: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """The judgement of one resource of one process over time or over counters.

    `driver` is the counter that growth follows, `driver_tied` those that the evidence cannot tell apart from it.
    """

    pid: int | None
    resource: str
    verdict: VerdictKind
    driver: str | None
    cycles: int
    rate: Rate | None
    upper_bound: float | None
    samples_needed: int | None
    exhausts: Exhaustion | None
    evidence: tuple[str, ...] = ()
    driver_tied: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RateData:
    """What only `rate` has: how long it watched, in seconds, how often, and the polls seen (None: no status page)."""

    seconds: float
    samples: int
    polls: int | None
