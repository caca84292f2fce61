"""A whole recipe: its arms one after the other, judged, diagnosed, and compared with what it expects."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from amidiag.diagnosis.context import Context
from amidiag.diagnosis.diagnose import diagnose
from amidiag.model import ExitCode, Finding, FlatCheck, Mitigation, ProcessObservation, SeriesReport
from amidiag.series.reporting import Pace, report_series
from amidiag.soak.accept import failures
from amidiag.soak.arm import ArmOutcome, Listener, run_arm
from amidiag.soak.ending import ending
from amidiag.soak.flat import flat_checks, not_flat
from amidiag.soak.recipe import Recipe

# The pace that forecasts and the stated compression refer to: an idle worker's polls, at the default of
# AMI_ANTENNA_IDLE_SLEEP_SECONDS.
IDLE_POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class ArmResult:
    """An arm with its judgement. `shown` is whether it met its expectation, None where it has none."""

    outcome: ArmOutcome
    series: tuple[SeriesReport, ...]
    findings: tuple[Finding, ...]
    shown: bool | None
    compression: float
    notes: tuple[str, ...] = ()
    flat: tuple[FlatCheck, ...] = ()

    @property
    def unexpected(self) -> tuple[Finding, ...]:
        """The errors found beside the leak that the arm is there to show."""
        arm = self.outcome.arm
        kind = arm.resource.split(".")[0] if arm.expect == "leak" else None
        return tuple(
            f
            for f in self.findings
            if f.severity == "error" and (f.resource is None or f.resource.split(".")[0] != kind)
        )


@dataclass(frozen=True, slots=True)
class Result:
    """All arms of a recipe."""

    recipe: Recipe
    seed: int
    arms: tuple[ArmResult, ...]

    @property
    def exit_code(self) -> int:
        """1 for a finding that no arm expects, or an expectation that was refuted; 4 undecided; else 0."""
        if any(arm.unexpected or _refuted(arm) for arm in self.arms):
            return ExitCode.FINDING
        return ExitCode.UNDECIDED if any(_open(arm) for arm in self.arms) else ExitCode.CLEAN

    @property
    def answer(self) -> str | None:
        """The recipe's answer to its question, once the verdicts bear it out."""
        borne_out = all(
            arm.outcome.verdict.kind == self.recipe.answered_by and not arm.outcome.lacks_certificate
            for arm in self.arms
        )
        return " ".join(self.recipe.answers.split()) if self.recipe.answers and borne_out else None

    @property
    def processes(self) -> tuple[ProcessObservation, ...]:
        """The last observation of each arm's worker."""
        lasts = [arm.outcome.recording.last for arm in self.arms]
        return tuple(last.processes[0] for last in lasts if last is not None)


def run(
    recipe: Recipe, seed: int | None, directory: Path | None, listener: Listener, *, traced: bool = True
) -> Result:
    """Run all arms of a recipe. Logs go to `directory`, or to a temporary one that is removed.

    `traced`: findings carry the call sites of what grew, but for arms that bound memory, which are never traced.

    Raises:
        ProgramError: the worker could not be started, ended by itself, or stopped polling.
        OSError: `directory` cannot be made or written.
    """
    used = recipe.load.seed if seed is None else seed
    with tempfile.TemporaryDirectory(prefix="amidiag-soak-") as scratch:
        base = directory or Path(scratch)
        arms: list[ArmResult] = []
        for number, arm in enumerate(recipe.arms, 1):
            # The tracer's own notes are memory too: about 1 kB for each loader process that was traced.
            notes_matter = arm.memory_bytes_per_cycle is not None
            outcome = run_arm(
                recipe, arm, used, base / f"arm-{number}", listener, traced=traced and not notes_matter
            )
            arms.append(_judge(recipe, outcome))
    return Result(recipe, used, _with_proof(recipe, tuple(arms)))


def _judge(recipe: Recipe, outcome: ArmOutcome) -> ArmResult:
    per_cycle = outcome.seconds / max(1, outcome.recording.observations - 1)
    idle = per_cycle + IDLE_POLL_S
    series: tuple[SeriesReport, ...] = ()
    if outcome.arm.stop != "load":
        series = report_series(
            outcome.recording,
            Pace(idle),
            decided={outcome.arm.resource: outcome.verdict},
            tolerance=outcome.arm.certificate_events_per_cycle,
        )
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    if (last := outcome.recording.last) is not None:
        root = last.processes[0]
        findings = diagnose(
            Context(
                root,
                series,
                outcome.settings,
                asked=outcome.arm.settings,
                simulated=outcome.faults,
                trace=outcome.trace,
            )
        )
        notes = _notes(outcome, root)
    flat = flat_checks(outcome.arm, outcome.recording)
    findings += not_flat(flat, {finding.resource for finding in findings})
    findings += failures(recipe.accept, outcome.answers) + ending(outcome.exit_status)
    compression = idle / per_cycle if per_cycle else 1.0
    return ArmResult(outcome, series, findings, _shown(outcome), compression, notes, flat)


def _notes(outcome: ArmOutcome, root: ProcessObservation) -> tuple[str, ...]:
    if root.status is not None:
        return ()
    return (
        f"{outcome.arm.name}: the program has no status page, so its polls are counted by the server, and what "
        "else it does (loaders, batches) is not known",
    )


def _shown(outcome: ArmOutcome) -> bool | None:
    expect = outcome.arm.expect
    if expect is None:
        return None
    return outcome.verdict.kind == expect and not outcome.lacks_certificate


def _with_proof(recipe: Recipe, arms: tuple[ArmResult, ...]) -> tuple[ArmResult, ...]:
    """Mark the mitigations that a later arm of the same recipe has tried."""
    if not arms:
        return arms
    base = recipe.arms[0].settings
    tried: dict[tuple[str, str], bool] = {}
    for arm in arms[1:]:
        changed = _changed(base, arm.outcome.arm.settings)
        works = arm.shown is True and not arm.unexpected
        # Undecided proves nothing, in neither direction.
        if len(changed) == 1 and (works or arm.outcome.verdict.kind == "leak"):
            tried[next(iter(changed.items()))] = works
    proven = tuple(_mark(finding, tried) for finding in arms[0].findings)
    return (replace(arms[0], findings=proven), *arms[1:])


def _changed(base: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in settings.items() if base.get(name) != value}


def _mark(finding: Finding, tried: Mapping[tuple[str, str], bool]) -> Finding:
    def mark(mitigation: Mitigation) -> Mitigation:
        return replace(mitigation, proven=tried.get((mitigation.setting, mitigation.value)))

    return replace(finding, mitigations=tuple(mark(m) for m in finding.mitigations))


def _refuted(arm: ArmResult) -> bool:
    """Whether the contrary of what an arm expects was proven."""
    decided = arm.outcome.verdict.kind in ("leak", "stable")
    return arm.shown is False and decided and arm.outcome.verdict.kind != arm.outcome.arm.expect


def _open(arm: ArmResult) -> bool:
    """Whether the arm's own question stayed open, or a resource grows without proof of a leak."""
    outcome = arm.outcome
    if arm.shown is not None:
        return not arm.shown
    if outcome.arm.stop == "load":
        return False
    if outcome.arm.stop == "end":
        return any(check.outcome == "undecided" for check in arm.flat)
    if any(series.verdict == "growing" for series in arm.series):
        return True
    # A certificate that was asked for and not reached leaves its question open, even where growth is small.
    return outcome.verdict.kind == "undecided" or outcome.lacks_certificate
