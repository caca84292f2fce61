"""Sampling a live tree at intervals, and finding its cycles from the worker's counters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from amidiag.model import Identity, Observation, SeriesReport
from amidiag.series.recording import Recording
from amidiag.series.reporting import Pace, report_series

# The trough test decides nothing below this (FACTS 9); without that many cycles a rise is only "rising".
CYCLES_NEEDED = 24
# Watching must not load the machine: an observation may cost at most this share of the interval.
_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class LiveResult:
    """What was seen: the judged series, the last observation, and whether cycles were seen."""

    series: tuple[SeriesReport, ...]
    last: Observation
    samples: int
    cycles: int | None
    seconds: float


def watch(
    identity: Identity,
    observe: Callable[[Identity], Observation],
    *,
    seconds: float,
    interval: float | None,
    listener: Callable[[float, int], None],
) -> Recording:
    """Observe the tree every `interval` seconds for `seconds`; `listener` is told seconds gone and FDs open.

    Without an interval it is chosen from the cost of one observation, 0.2 s at least.
    """
    recording = Recording()
    begin = time.monotonic()
    step = interval or 0.2
    while True:
        before = time.process_time()
        observation = observe(identity)
        cost = time.process_time() - before
        recording.add(observation)
        if interval is None:
            step = max(step, cost / _SHARE)
        gone = time.monotonic() - begin
        listener(gone, observation.processes[0].fds.open or 0)
        if gone >= seconds:
            return recording
        time.sleep(min(step, max(0.0, seconds - gone)))


def judge_live(recording: Recording) -> LiveResult:
    """Judge per poll where the worker's counters show at least `CYCLES_NEEDED` polls, else over time, with care."""
    if recording.last is None:
        raise ValueError("nothing was observed")
    seconds = recording.times[-1] - recording.times[0]
    polls = recording.counters.get("polls")
    cycles = None if polls is None else int(polls[-1] - polls[0])
    if cycles is not None and cycles >= CYCLES_NEEDED:
        folded = fold(recording, "polls")
        pace = Pace(seconds / max(1, folded.observations - 1), "at the pace seen", sample="polls")
        if folded.observations >= CYCLES_NEEDED:
            series = report_series(folded, pace)
            return LiveResult(series, recording.last, recording.observations, cycles, seconds)
    step = seconds / max(1, recording.observations - 1)
    series = report_series(recording, Pace(step, "at the pace seen", sample="samples"))
    careful = tuple(_rising(entry, cycles, step) for entry in series)
    return LiveResult(careful, recording.last, recording.observations, cycles, seconds)


def fold(recording: Recording, counter: str) -> Recording:
    """One row per value of the counter: the least of each resource while it stood there.

    What is open in the middle of a cycle is not there at its trough, so the least is what stays.
    """
    marks = recording.counters[counter]
    folded = Recording()
    folded.last = recording.last
    starts = [i for i in range(len(marks)) if i == 0 or marks[i] != marks[i - 1]]
    spans = list(zip(starts, [*starts[1:], len(marks)], strict=True))
    # The first and the last cycle were not seen whole.
    for begin, end in spans[1:-1]:
        folded.add_row(
            {name: _least(recording.values(name)[begin:end]) for name in recording.resources},
            {name: column[begin] for name, column in recording.counters.items() if name != "seconds"},
            recording.times[begin],
        )
    return folded


def _least(values: list[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return min(known) if known else math.nan


def _rising(entry: SeriesReport, cycles: int | None, step: float) -> SeriesReport:
    seen = "the process has no status page" if cycles is None else f"only {cycles} polls were seen"
    why = (
        f"{seen}, so a cycle of the program cannot be told from a leak: rising at most, never leak or stable"
    )
    rate = entry.rate
    if rate is not None and rate.per == "samples" and step > 0:
        rate = replace(
            rate, per="seconds", value=rate.value / step, low=rate.low / step, high=rate.high / step
        )
    needed = None if cycles is None else max(1, CYCLES_NEEDED - cycles)
    return replace(
        entry,
        verdict="growing" if entry.verdict in ("leak", "growing") else "undecided",
        rate=rate,
        upper_bound=None,
        samples_needed=needed,
        evidence=(*entry.evidence, why),
    )
