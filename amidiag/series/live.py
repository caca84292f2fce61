"""Sampling a live tree at intervals, and finding its cycles from the worker's counters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from amidiag.model import Identity, Observation, SeriesReport
from amidiag.procfs.errors import ProcessGone
from amidiag.series.recording import Recording
from amidiag.series.reporting import Pace, report_series
from amidiag.series.trough import TOLERANCE

# The trough test decides nothing below this (FACTS 9); with fewer rows of whole polls a rise is only "rising".
CYCLES_NEEDED = 24
# Watching must not load the machine: an observation may cost at most this share of the interval.
_SHARE = 0.05
_LEAST_STEP_S = 0.1
# Who holds the other ends takes a look at the whole machine.
_FULL_EVERY = 4


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What was seen: the judged series, the last observation, and whether cycles were seen.

    `cycles` counts polls, None without a status page; `reasons` says why no more could be decided.
    """

    series: tuple[SeriesReport, ...]
    last: Observation
    samples: int
    cycles: int | None
    seconds: float
    reasons: tuple[str, ...] = ()


def watch(
    identity: Identity,
    observe: Callable[[Identity, bool], Observation],
    *,
    seconds: float,
    interval: float | None,
    listener: Callable[[float, int], None],
) -> tuple[Recording, ProcessGone | None]:
    """Observe the tree every `interval` seconds for `seconds`; `listener` is told seconds gone and FDs open.

    `observe(identity, full)` looks for peers and shared memory too where `full`: at the first look, at
    every `_FULL_EVERY`th, and at the last. Without an interval it is chosen from what looks cost on
    average, `_LEAST_STEP_S` at least.

    Where the process ends meanwhile, what was seen until then comes back with the error that says so: a
    worker that dies is what one watches for. Raises ProcessGone where nothing was seen.
    """
    recording = Recording()
    begin = time.monotonic()
    spent = 0.0
    while True:
        last = time.monotonic() - begin >= seconds
        before = time.process_time()
        try:
            observation = observe(identity, last or recording.observations % _FULL_EVERY == 0)
        except ProcessGone as e:
            if recording.observations == 0:
                raise
            return recording, e
        spent += time.process_time() - before
        recording.add(observation)
        gone = time.monotonic() - begin
        listener(gone, observation.processes[0].fds.open or 0)
        if last:
            return recording, None
        step = interval or max(_LEAST_STEP_S, spent / recording.observations / _SHARE)
        time.sleep(max(0.0, min(step, seconds - gone)))


def judge_live(recording: Recording) -> LiveResult:
    """Judge per poll where the worker's counters show enough of them, else over time, with care.

    Every figure per poll, `samples_needed` and `cycles` are in polls, also where several of them fell
    between two looks. Raises ValueError for a recording without an observation.
    """
    if recording.last is None:
        raise ValueError("nothing was observed")
    seconds = recording.times[-1] - recording.times[0]
    polls = [p for p in recording.counters.get("polls", ()) if not math.isnan(p)]
    cycles = int(polls[-1] - polls[0]) if polls else None
    width = _polls_between_looks(polls)
    folded = fold(recording, "polls", width) if polls else Recording()
    rows = sum(not math.isnan(mark) for mark in folded.counters.get("polls", ()))
    reasons: tuple[str, ...] = ()
    if rows >= CYCLES_NEEDED:
        series = _per_poll(folded, width)
    else:
        step = seconds / max(1, recording.observations - 1)
        why, needed = _too_few(cycles, rows, width)
        over_time = report_series(recording, Pace(step, sample="samples"))
        series = tuple(_rising(entry, why, needed, step) for entry in over_time)
        reasons = (why,)
    return LiveResult(series, recording.last, recording.observations, cycles, seconds, reasons)


def fold(recording: Recording, counter: str, width: int = 1) -> Recording:
    """One row per `width` steps of the counter that were seen whole: the least of each resource in them.

    What is open in the middle of a cycle is not there at its trough, so the least is what stays. Rows are
    equally far apart in steps, as `judge` needs them, whatever the pace; one without a look is NaN. Looks
    that did not find the counter are left out.
    """
    marks = recording.counters[counter]
    known = [i for i, mark in enumerate(marks) if not math.isnan(mark)]
    looks = {row: list(of) for row, of in groupby(known, lambda i: (marks[i] - marks[known[0]]) // width)}
    folded = Recording()
    folded.last = recording.last
    counters = _merged({name: c for name, c in recording.counters.items() if name != "seconds"})
    whole = list(looks)[1:-1]
    for row in range(int(whole[0]), int(whole[-1]) + 1) if whole else ():
        of = looks.get(row, [])
        folded.add_row(
            {name: _least([recording.values(name)[i] for i in of]) for name in recording.resources},
            {name: c[of[0]] if of else math.nan for name, c in counters.items()},
            recording.times[of[0]] if of else math.nan,
        )
    return folded


def _merged(counters: dict[str, list[float]]) -> dict[str, list[float]]:
    """Counters that keep step with another to within one are given its values.

    A poll counts before it builds its loader. Which of the two a look finds a step ahead is chance, and
    must not tell them apart: the same values make them tied.
    """
    merged: dict[str, list[float]] = {}
    for name, counter in counters.items():
        apart = (
            (other, [a - b for a, b in zip(counter, of, strict=True) if not math.isnan(a - b)])
            for other, of in merged.items()
        )
        twin = next((other for other, d in apart if d and max(d) - min(d) <= 1), None)
        merged[name] = counter if twin is None else merged[twin]
    return merged


def _least(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return min(known) if known else math.nan


def _polls_between_looks(polls: list[float]) -> int:
    """The width of a row: three quarters of the polls lie between looks no further apart; the rest leaves gaps."""
    steps = sorted(b - a for a, b in pairwise(polls) if b > a)
    most, passed = 0.75 * sum(steps), 0.0
    for step in steps:
        passed += step
        if passed >= most:
            return int(step)
    return 1


def _per_poll(folded: Recording, width: int) -> tuple[SeriesReport, ...]:
    """Judge the rows, and state per poll what was found per row."""
    pace = Pace((folded.times[-1] - folded.times[0]) / (folded.observations - 1), sample="rows")
    # The same growth per poll is tolerated however many of them a row spans.
    judged = report_series(folded, pace, tolerance=TOLERANCE["fd"] * width)
    return tuple(_in_polls(entry, width) for entry in judged)


def _in_polls(entry: SeriesReport, each: int) -> SeriesReport:
    rate = entry.rate
    # A rate per step of the counter that drives growth is not one per row.
    if rate is not None and rate.per == "rows":
        rate = replace(rate, per="polls", value=rate.value / each, low=rate.low / each, high=rate.high / each)
    said = () if each == 1 else (f"one sample spans {each} polls: they were faster than the looks",)
    return replace(
        entry,
        cycles=entry.cycles * each,
        rate=rate,
        upper_bound=None if entry.upper_bound is None else entry.upper_bound / each,
        samples_needed=None if entry.samples_needed is None else entry.samples_needed * each,
        evidence=(*entry.evidence, *said),
    )


def _too_few(cycles: int | None, rows: int, width: int) -> tuple[str, int | None]:
    """Why polls cannot be judged one by one, and how many more would do (None: none would)."""
    care = "so a cycle of the program cannot be told from a leak: it is called rising or undecided, no more"
    if cycles is None:
        return f"the process has no status page, {care}", None
    # Where the counter stood still, the poll under way at the first look is yet to end.
    needed = (CYCLES_NEEDED - rows + (cycles == 0)) * width
    if width == 1:
        return f"only {rows} whole polls were seen and {CYCLES_NEEDED} are needed, {care}", needed
    seen = f"the {cycles} polls seen were faster than the looks and make only {rows} samples"
    more = f"{CYCLES_NEEDED} are needed (watch longer, or with a shorter --interval)"
    return f"{seen}, {more}, {care}", needed


def _rising(entry: SeriesReport, why: str, needed: int | None, step: float) -> SeriesReport:
    rate = entry.rate
    if rate is not None and rate.per == "samples" and step > 0:
        rate = replace(
            rate, per="seconds", value=rate.value / step, low=rate.low / step, high=rate.high / step
        )
    return replace(
        entry,
        verdict="growing" if entry.verdict in ("leak", "growing") else "undecided",
        rate=rate,
        upper_bound=None,
        samples_needed=needed,
        evidence=(*entry.evidence, why),
    )
