"""A whole recipe: its arms one after the other, judged, diagnosed, and compared with what it expects."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from amidiag.diagnosis import Context, diagnose
from amidiag.model import ExitCode, Finding, Mitigation, ProcessObservation, SeriesReport
from amidiag.series.reporting import Pace, report_series
from amidiag.soak.accept import failures
from amidiag.soak.arm import ArmOutcome, Listener, run_arm
from amidiag.soak.recipe import Recipe

# The worker's default AMI_ANTENNA_IDLE_SLEEP_SECONDS: the pace of an idle worker in production.
PRODUCTION_POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm with its judgement. `shown` is whether it met its expectation, None where it has none."""

    outcome: ArmOutcome
    series: tuple[SeriesReport, ...]
    findings: tuple[Finding, ...]
    shown: bool | None
    compression: float


@dataclass(frozen=True, slots=True)
class Result:
    """All arms of a recipe, and the exit code that they add up to."""

    recipe: Recipe
    seed: int
    arms: tuple[ArmResult, ...]

    @property
    def exit_code(self) -> int:
        """0 where every expectation was shown; without expectations 1 for a finding, 4 for undecided, else 0."""
        return _exit_code(self.recipe, self.arms)

    @property
    def process(self) -> tuple[ProcessObservation, ...]:
        """The last observation of each arm's worker."""
        lasts = [arm.outcome.recording.last for arm in self.arms]
        return tuple(last.processes[0] for last in lasts if last is not None)


def run(recipe: Recipe, seed: int | None, directory: Path | None, listener: Listener) -> Result:
    """Run all arms of a recipe. Logs go to `directory`, or to a temporary one that is removed.

    Raises:
        ProgramError: the worker could not be started or ended by itself.
    """
    used = recipe.load.seed if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="amidiag-soak-") as scratch:
        base = directory or Path(scratch)
        arms: list[ArmResult] = []
        for number, arm in enumerate(recipe.arms, 1):
            outcome = run_arm(recipe, arm, used, base / f"{number}-{arm.name.replace(' ', '-')}", listener)
            arms.append(_judge(recipe, outcome))
    return Result(recipe, used, _with_proof(recipe, tuple(arms)))


def _judge(recipe: Recipe, outcome: ArmOutcome) -> ArmResult:
    cycles = max(1, outcome.recording.observations - 1)
    per_cycle = outcome.seconds / cycles
    pace = Pace(
        seconds_per_sample=per_cycle + PRODUCTION_POLL_S,
        words=f"at one poll every {PRODUCTION_POLL_S:.0f} s, as an idle worker in production",
    )
    if outcome.arm.stop == "load":
        series: tuple[SeriesReport, ...] = ()
    else:
        series = report_series(
            outcome.recording,
            pace,
            decided={outcome.arm.resource: outcome.verdict},
            tolerance=outcome.arm.certificate_events_per_cycle,
        )
    last = outcome.recording.last
    findings: tuple[Finding, ...] = ()
    if last is not None:
        findings = diagnose(Context(last.processes[0], series, outcome.settings, outcome.faults))
    findings += failures(recipe.accept, outcome.answers)
    return ArmResult(
        outcome,
        series,
        findings,
        _shown(outcome),
        (per_cycle + PRODUCTION_POLL_S) / per_cycle if per_cycle else 1.0,
    )


def _shown(outcome: ArmOutcome) -> bool | None:
    expect, arm = outcome.arm.expect, outcome.arm
    if expect is None:
        return None
    if expect == "stable" and arm.stop == "certificate":
        bound = outcome.certificate.events_per_cycle_bound if outcome.certificate else 1.0
        return outcome.verdict.kind == "stable" and bound <= arm.certificate_events_per_cycle
    return outcome.verdict.kind == expect


def _with_proof(recipe: Recipe, arms: tuple[ArmResult, ...]) -> tuple[ArmResult, ...]:
    """Mark the mitigations that a later arm of the same recipe has tried."""
    if not arms:
        return arms
    base = recipe.arms[0].settings
    tried: dict[tuple[str, str], bool] = {}
    for arm in arms[1:]:
        changed = _changed(base, arm.outcome.arm.settings)
        # Undecided proves nothing, in neither direction.
        if len(changed) == 1 and (arm.shown or arm.outcome.verdict.kind == "leak"):
            tried[next(iter(changed.items()))] = bool(arm.shown)
    proven = tuple(_mark(finding, tried) for finding in arms[0].findings)
    return (replace(arms[0], findings=proven), *arms[1:])


def _changed(base: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if base.get(name) != value}


def _mark(finding: Finding, tried: Mapping[tuple[str, str], bool]) -> Finding:
    def mark(mitigation: Mitigation) -> Mitigation:
        return replace(mitigation, proven=tried.get((mitigation.setting, mitigation.value)))

    return replace(finding, mitigations=tuple(mark(m) for m in finding.mitigations))


def _exit_code(recipe: Recipe, arms: tuple[ArmResult, ...]) -> int:
    if any(arm.shown is not None for arm in arms):
        if all(arm.shown for arm in arms if arm.shown is not None):
            return ExitCode.CLEAN
        undecided = any(
            arm.outcome.verdict.kind in ("undecided", "growing") for arm in arms if arm.shown is False
        )
        return ExitCode.UNDECIDED if undecided else ExitCode.FINDING
    if any(f.severity == "error" for arm in arms for f in arm.findings):
        return ExitCode.FINDING
    return ExitCode.UNDECIDED if any(_open(arm) for arm in arms) else ExitCode.CLEAN


def _open(arm: ArmResult) -> bool:
    """Whether the arm's own question stayed open, or a resource grows without proof of a leak."""
    outcome = arm.outcome
    if outcome.arm.stop == "load":
        return False
    if any(series.verdict == "growing" for series in arm.series):
        return True
    return outcome.verdict.kind == "undecided"
