"""The gate: which checks of a soak pass, fail or stay undecided.

Unlike `soak`, the gate knows no expectations: a leak that a recipe was made to show is a failure here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from amidiag.model import ExitCode, GateCheck, SeriesReport
from amidiag.soak.experiment import ArmResult, Result

CheckOutcome = Literal["passed", "failed", "undecided"]


def checks(result: Result) -> tuple[GateCheck, ...]:
    """A check for every judged resource of every arm, and one for the answers where the recipe demands them."""
    return tuple(check for arm in result.arms for check in _of_arm(arm))


def gate_exit_code(found: tuple[GateCheck, ...], *, undecided_passes: bool) -> int:
    """1 if a check failed, 4 if one stayed undecided (unless that passes), else 0."""
    outcomes = {check.outcome for check in found}
    if "failed" in outcomes:
        return ExitCode.FINDING
    return ExitCode.UNDECIDED if "undecided" in outcomes and not undecided_passes else ExitCode.CLEAN


def _of_arm(arm: ArmResult) -> Iterator[GateCheck]:
    name, seconds = arm.outcome.arm.name, arm.outcome.seconds
    for series in arm.series:
        outcome, message = _of_series(arm, series)
        yield GateCheck(name, series.resource, outcome, message, "\n".join(series.evidence), seconds)
    for finding in arm.findings:
        # Findings on a series are its check already; these are about what the worker answered.
        if finding.resource is None:
            detail = "\n".join(finding.evidence)
            yield GateCheck(name, finding.code, "failed", finding.title, detail, seconds)
    if arm.outcome.answers.tasks and not any(f.resource is None for f in arm.findings):
        answers = arm.outcome.answers
        text = f"{answers.answered_once} of {answers.tasks} tasks answered once, {answers.lost} lost"
        yield GateCheck(name, "answers", "passed", text, "", seconds)


def _of_series(arm: ArmResult, series: SeriesReport) -> tuple[CheckOutcome, str]:
    rate = series.rate
    words = ""
    if rate is not None:
        words = f"{rate.value:g} per {rate.per} [{rate.low:g}, {rate.high:g}]"
    if series.verdict == "leak":
        return "failed", f"{series.resource} leaks: {words}"
    needs = f"needs {series.samples_needed} more polls" if series.samples_needed else "needs more polls"
    if series.verdict == "growing":
        return "undecided", f"{series.resource} rises, and may settle: {words}; {needs}"
    if series.resource != arm.outcome.arm.resource:
        return "passed", f"{series.resource}: no drift proven ({series.verdict})"
    certificate = arm.outcome.certificate
    if certificate is not None:
        bound = f"{certificate.events_per_cycle_bound:.4f} leak events per poll"
        return "passed", f"{series.resource} is flat: fewer than {bound} over {certificate.cycles} polls"
    if series.verdict == "stable":
        return "passed", f"{series.resource} is stable: grows by less than {series.upper_bound} per poll"
    return "undecided", f"{series.resource} is undecided; {needs}"
