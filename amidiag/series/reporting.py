"""The judgement of every resource of a recording: verdict, driver, rate, time left."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from amidiag.model import Exhaustion, Rate, SeriesReport, Verdict
from amidiag.series.driver import Driver, find_driver
from amidiag.series.forecast import forecast
from amidiag.series.recording import Recording, unit_of
from amidiag.series.trough import judge

# What a person asks of a worker; the types and peers of FDs are added where they ever moved.
_ALWAYS = ("fd", "threads", "children", "memory.rss", "shm.held")


@dataclass(frozen=True, slots=True)
class Pace:
    """How samples become time: `seconds_per_sample` is what a forecast is made with, `sample` what one is called."""

    seconds_per_sample: float
    sample: str = "cycles"


def report_series(
    recording: Recording,
    pace: Pace,
    *,
    decided: dict[str, Verdict] | None = None,
    tolerance: float | None = None,
) -> tuple[SeriesReport, ...]:
    """Judge every resource worth it.

    `decided` holds verdicts that a sequential look has already given; `tolerance` is the growth per sample
    below which FDs, threads and children count as stable (None: the default of `judge`).
    """
    known = decided or {}
    return tuple(
        _report(recording, resource, known.get(resource), pace, tolerance)
        for resource in worth_judging(recording)
    )


def worth_judging(recording: Recording) -> tuple[str, ...]:
    """The resources that people ask for, then those parts of the FD count that ever changed."""
    parts = [r for r in recording.resources if r.startswith("fd.") and _moved(recording.values(r))]
    return (*(r for r in _ALWAYS if r in recording.resources), *parts)


def _moved(values: Iterable[float]) -> bool:
    known = [v for v in values if not math.isnan(v)]
    return bool(known) and max(known) > min(known)


def _report(
    recording: Recording, resource: str, decided: Verdict | None, pace: Pace, tolerance: float | None
) -> SeriesReport:
    values = recording.values(resource)
    unit = unit_of(resource)
    verdict = decided or judge(values, unit=unit, tolerance=None if unit == "byte" else tolerance)
    driver = Driver(None, None)
    if verdict.kind in ("leak", "growing"):
        driver = find_driver(values, recording.counters, unit)
    return SeriesReport(
        pid=recording.last.processes[0].pid if recording.last else None,
        resource=resource,
        verdict=verdict.kind,
        driver=driver.name,
        cycles=verdict.samples,
        rate=driver.rate or _per_sample(verdict, pace),
        upper_bound=verdict.upper_bound,
        samples_needed=verdict.samples_needed,
        exhausts=_exhausts(recording, resource, verdict, pace),
        evidence=(*verdict.evidence, *driver.evidence),
        driver_tied=driver.tied,
    )


def _per_sample(verdict: Verdict, pace: Pace) -> Rate | None:
    if verdict.rate is None or verdict.low is None or verdict.high is None:
        return None
    return Rate(pace.sample, verdict.rate, verdict.low, verdict.high, verdict.confidence)


def _exhausts(recording: Recording, resource: str, verdict: Verdict, pace: Pace) -> Exhaustion | None:
    limit = recording.last.processes[0].fds.soft_limit if recording.last else None
    if resource != "fd" or limit is None or verdict.kind not in ("leak", "growing"):
        return None
    return forecast(
        recording.values(resource),
        verdict,
        limit=limit,
        name="nofile",
        seconds_per_sample=pace.seconds_per_sample,
    )
