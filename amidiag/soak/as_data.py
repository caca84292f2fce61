"""A soak as the data of its JSON."""

from __future__ import annotations

from amidiag.model import ArmData, GateCheck, ResourceValues, SoakData
from amidiag.soak.experiment import ArmResult, Result


def soak_data(result: Result, gate: tuple[GateCheck, ...] | None) -> SoakData:
    """What only a soak has: its arms with their series, and the checks of a gate."""
    return SoakData(
        recipe=result.recipe.name,
        seed=result.seed,
        answers=result.answer,
        arms=tuple(_arm(arm) for arm in result.arms),
        gate=gate,
    )


def _arm(arm: ArmResult) -> ArmData:
    outcome = arm.outcome
    recording = outcome.recording
    root = recording.last.processes[0] if recording.last else None
    return ArmData(
        name=outcome.arm.name,
        pid=root.pid if root else None,
        verdict=outcome.verdict.kind,
        expected=outcome.arm.expect,
        shown=arm.shown,
        cycles=max(0, recording.observations - 1),
        seconds=outcome.seconds,
        time_compression=arm.compression,
        certificate=outcome.certificate,
        counters=root.status.counters if root and root.status else None,
        faults=outcome.faults,
        settings=outcome.settings,
        answered=outcome.answers,
        series=tuple(ResourceValues(r, tuple(recording.values(r))) for r in _kept(recording.resources)),
        worker_exit_status=outcome.exit_status,
        flat=arm.flat,
    )


def _kept(resources: tuple[str, ...]) -> tuple[str, ...]:
    # Of the peers only those that tell a leak.
    return tuple(r for r in resources if r.count(".") < 2 or r.endswith(".nobody"))
