"""Running a recipe from the command line: progress on standard error, errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from amidiag.cli.door import CommandError, envelope, err
from amidiag.model import ArmData, Envelope, ExitCode, GateCheck, ResourceValues, SoakData
from amidiag.soak.arm import Listener, Progress
from amidiag.soak.experiment import ArmResult, Result, run
from amidiag.soak.program import ProgramError
from amidiag.soak.recipe import Recipe, RecipeError, load

_LINE_EVERY = 50


def run_recipe(name: str, seed: int | None, cycles: int | None, keep: Path | None) -> Result:
    """Load and run a recipe, showing progress.

    Raises:
        CommandError: a broken recipe (exit code 2), or a worker that does not run (3).
    """
    try:
        recipe = load(name)
        if cycles is not None:
            recipe = replace(recipe, load=replace(recipe.load, cycles=cycles))
        with _progress(recipe) as listener:
            return run(recipe, seed, keep, listener)
    except RecipeError as e:
        raise CommandError(str(e), ExitCode.USAGE) from e
    except ProgramError as e:
        raise CommandError(str(e), ExitCode.CANNOT_OBSERVE) from e


@contextmanager
def _progress(recipe: Recipe) -> Iterator[Listener]:
    console = err()
    console.print(f"{recipe.name}: {recipe.title}", style="bold")
    if not console.is_terminal:
        yield _lines
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[now]}"), console=console, transient=True) as bars:
        tasks: dict[tuple[str, str], Any] = {}

        def show(at: Progress) -> None:
            key = (at.arm, at.phase)
            if key not in tasks:
                tasks[key] = bars.add_task(f"{at.arm}: {at.phase}", total=at.cycles, now="")
            bars.update(
                tasks[key], completed=at.cycle, now=f"{at.resource} {at.value:.0f}" if at.value else ""
            )

        yield show


def _lines(at: Progress) -> None:
    if at.cycle % _LINE_EVERY == 0:
        value = f", {at.resource} {at.value:.0f}" if at.value else ""
        err().print(f"  {at.arm}: {at.phase} {at.cycle} of at most {at.cycles}{value}")


def soak_envelope(
    command: str, result: Result, exit_code: int, gate: tuple[GateCheck, ...] | None = None
) -> Envelope:
    """The JSON of a soak: `series` and `findings` of all arms, each arm's own part in `data.arms`."""
    lasts = [arm.outcome.recording.last for arm in result.arms if arm.outcome.recording.last is not None]
    return envelope(
        command,
        exit_code,
        processes=result.process,
        tree=lasts[-1].tree if lasts else None,
        series=tuple(s for arm in result.arms for s in arm.series),
        findings=tuple(f for arm in result.arms for f in arm.findings),
        data=SoakData(
            recipe=result.recipe.name,
            seed=result.seed,
            answers=" ".join(result.recipe.answers.split()) or None,
            arms=tuple(_arm(arm) for arm in result.arms),
            gate=gate,
        ),
        notes=tuple(dict.fromkeys(note for last in lasts for note in last.notes)),
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
    )


def _kept(resources: tuple[str, ...]) -> tuple[str, ...]:
    # Of the peers only those that tell a leak.
    return tuple(r for r in resources if r.count(".") < 2 or r.endswith(".nobody"))
