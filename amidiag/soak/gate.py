"""The gate: which checks of a soak pass, fail or stay undecided.

Unlike `soak`, the gate knows no expectations: a leak that a recipe was made to show is a failure here.
"""

from __future__ import annotations

from collections.abc import Iterator

from amidiag.attach.grouping import call_sites
from amidiag.model import CheckOutcome, ExitCode, Finding, GateCheck, SeriesReport
from amidiag.soak.experiment import ArmResult, Result

_STACKS = 3


def checks(result: Result) -> tuple[GateCheck, ...]:
    """A check for every judged resource of every arm, for its answers, and for every other finding."""
    return tuple(check for arm in result.arms for check in _of_arm(arm))


def gate_exit_code(found: tuple[GateCheck, ...], *, undecided_passes: bool) -> int:
    """1 if a check failed, 4 if one stayed undecided (unless that passes) or nothing was checked, else 0."""
    outcomes = {check.outcome for check in found}
    if "failed" in outcomes:
        return ExitCode.FINDING
    open_ = "undecided" in outcomes and not undecided_passes
    return ExitCode.UNDECIDED if open_ or not outcomes else ExitCode.CLEAN


def _of_arm(arm: ArmResult) -> Iterator[GateCheck]:
    name, seconds = arm.outcome.arm.name, arm.outcome.seconds
    for check in arm.flat:
        yield GateCheck(name, check.resource, check.outcome, check.text, "", seconds)
    demanded = {check.resource for check in arm.flat}
    for series in arm.series:
        if series.resource in demanded and series.verdict != "leak":
            continue
        outcome, message = _of_series(arm, series)
        detail = "\n".join((*series.evidence, *_made_at(arm, series)))
        yield GateCheck(name, series.resource, outcome, message, detail, seconds)
    leaking = {series.resource for series in arm.series if series.verdict == "leak"}
    for finding in arm.findings:
        if finding.resource not in leaking:
            yield _of_finding(name, finding, seconds)
    answers = arm.outcome.answers
    if answers.tasks and not any(f.code.startswith("JOB") for f in arm.findings):
        text = f"{answers.answered_once} of {answers.tasks} tasks answered once, {answers.lost} lost"
        yield GateCheck(name, "answers", "passed", text, "", seconds)


def _made_at(arm: ArmResult, series: SeriesReport) -> Iterator[str]:
    """The stacks that made what leaks, innermost frame last."""
    if series.verdict != "leak" or arm.outcome.trace is None:
        return
    for site in call_sites(arm.outcome.trace, series.resource)[:_STACKS]:
        yield f"{site.count} made at:"
        yield from (f"  {frame}" for frame in site.stack)


def _of_finding(arm: str, finding: Finding, seconds: float) -> GateCheck:
    # A warning is told, and fails nothing.
    outcome: CheckOutcome = "failed" if finding.severity == "error" else "passed"
    detail = "\n".join((finding.cause, *finding.evidence))
    return GateCheck(arm, finding.code, outcome, f"{finding.title}: {finding.cause}", detail, seconds)


def _of_series(arm: ArmResult, series: SeriesReport) -> tuple[CheckOutcome, str]:
    words = _rate(series)
    if series.verdict == "leak":
        return "failed", f"{series.resource} leaks: {words}"
    needs = f"needs {series.samples_needed} more polls" if series.samples_needed else "needs more polls"
    if series.verdict == "growing":
        return "undecided", f"{series.resource} rises, and may settle: {words}; {needs}"
    outcome = arm.outcome
    if series.resource != outcome.arm.resource:
        certain = "stable" if series.verdict == "stable" else "too early to certify it as stable"
        return "passed", f"{series.resource}: no drift proven; {certain}"
    certificate = outcome.certificate
    if series.verdict == "stable" and outcome.certified and certificate is not None:
        often = 1 / certificate.events_per_cycle_bound
        return "passed", f"{series.resource} is flat: fewer than 1 leak event in {often:.0f} polls"
    if series.verdict == "stable" and not outcome.lacks_certificate:
        return "passed", f"{series.resource} is stable: grows by less than {series.upper_bound:.3g} per poll"
    return "undecided", f"{series.resource} is undecided; {needs}"


def _rate(series: SeriesReport) -> str:
    rate = series.rate
    return (
        "" if rate is None else f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}], counted per {rate.per}"
    )
