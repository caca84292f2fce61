"""Whether a run was as flat as its arm demands: every resource certified, memory below so many bytes per cycle."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from amidiag.model import Certificate, CheckOutcome, Finding, FlatCheck, Unit
from amidiag.series.certificate import certify
from amidiag.series.recording import Recording, unit_of
from amidiag.series.trough import judge
from amidiag.soak.recipe import Arm

_MEMORY = ("memory.rss", "tree.memory")
_FEWEST = 96
_CODES: dict[Unit, str] = {"fd": "FD102", "thread": "PROC102", "byte": "MEM101"}


def flat_checks(arm: Arm, recording: Recording) -> tuple[FlatCheck, ...]:
    """One check for every resource of which the arm demands something; none where it demands nothing."""
    return (*_counts(arm, recording), *_memory(arm, recording))


def not_flat(checks: Sequence[FlatCheck], told: Collection[str | None]) -> tuple[Finding, ...]:
    """A finding for every check that failed, unless there is one on its resource already."""
    return tuple(
        Finding(
            code=_CODES[unit_of(check.resource)],
            title="Grows more than the recipe allows",
            severity="error",
            pid=None,
            resource=check.resource,
            cause=check.text,
        )
        for check in checks
        if check.outcome == "failed" and check.resource not in told
    )


def _counts(arm: Arm, recording: Recording) -> Iterator[FlatCheck]:
    for resource in arm.demands_flat:
        values, unit = recording.values(resource), unit_of(resource)
        verdict, certificate = judge(values, unit), certify(values, unit=unit)
        if verdict.kind == "leak":
            yield FlatCheck(resource, "failed", f"{resource} leaks: {'; '.join(verdict.evidence)}")
            continue
        said = f"{resource}: {_span(values)}"
        if certificate is None:
            yield FlatCheck(resource, "undecided", f"{said}; its level rose, or too little was seen")
            continue
        often = f"fewer than 1 leak event in {1 / certificate.events_per_cycle_bound:.0f} cycles"
        text = f"{said}; {often} ({certificate.cycles} cycles without one)"
        if arm.certified_by(certificate):
            yield FlatCheck(resource, "passed", text)
        else:
            yield FlatCheck(resource, "undecided", text + _wanted(arm, certificate))


def _wanted(arm: Arm, certificate: Certificate) -> str:
    """What is missing. The bound goes with the number of cycles."""
    wanted = arm.certificate_events_per_cycle
    if not wanted:
        return ""
    needed = math.ceil(certificate.cycles * certificate.events_per_cycle_bound / wanted)
    return f"; 1 in {1 / wanted:.0f} is wanted: needs about {max(1, needed - certificate.cycles)} more"


def _memory(arm: Arm, recording: Recording) -> Iterator[FlatCheck]:
    if (most := arm.memory_bytes_per_cycle) is None:
        return
    for resource in _MEMORY:
        values = recording.values(resource)
        rate, verdict = floor_rate(values), judge(values, "byte")
        if rate is None or verdict.low is None or verdict.high is None:
            yield FlatCheck(resource, "undecided", f"{resource}: too few cycles to measure its growth")
            continue
        # Both speak: one that passes by a lucky dip is held back by the other.
        risen = verdict.kind == "leak" or verdict.low > most
        outcome: CheckOutcome = "passed" if rate <= most and not risen else "undecided"
        if rate > most and risen:
            outcome = "failed"
        said = f"{resource}: its floor rose by {rate:.0f} bytes per cycle, at most {most} accepted"
        interval = f"the troughs by {verdict.rate:.0f} [{verdict.low:.0f}, {verdict.high:.0f}]"
        yield FlatCheck(resource, outcome, f"{said}; {interval}")


def floor_rate(values: Sequence[float]) -> float | None:
    """By how much the floor rises per sample, from the first to the last quarter of what follows the warm-up.

    Resident memory goes up and down by megabytes with garbage and the allocator's arenas; what is lost for good
    lifts its lowest tenth. The first quarter of all counts as warm-up. None for fewer than 96 known samples.
    """
    known = [value for value in values if not math.isnan(value)]
    if len(known) < _FEWEST:
        return None
    settled = known[len(known) // 4 :]
    quarter = len(settled) // 4
    first, last = (sorted(part)[quarter // 10] for part in (settled[:quarter], settled[-quarter:]))
    return (last - first) / (len(settled) - quarter)


def _span(values: Sequence[float]) -> str:
    """Where a series went, missing samples left out."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "not read"
    low, high = min(known), max(known)
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"
