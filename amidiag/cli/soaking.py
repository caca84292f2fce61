"""Running a recipe from the command line: progress on standard error, errors as one line."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from amidiag.cli.door import CommandError, envelope, err
from amidiag.model import Envelope, ExitCode, GateCheck
from amidiag.soak.arm import Listener, Progress
from amidiag.soak.as_data import soak_data
from amidiag.soak.experiment import Result, run
from amidiag.soak.program import ProgramError
from amidiag.soak.recipe import Recipe, RecipeError
from amidiag.soak.recipe_file import load

_LINE_EVERY = 50


def run_recipe(
    name: str, seed: int | None, cycles: int | None, keep: Path | None, *, traced: bool = True
) -> Result:
    """Load and run a recipe, showing progress.

    Raises:
        CommandError: a broken recipe or an unusable `keep` (exit code 2), or a worker that does not run (3).
    """
    try:
        recipe = load(name)
        if cycles is not None:
            recipe = replace(recipe, load=replace(recipe.load, cycles=cycles))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        with _ended_by_signals(), _progress(recipe) as listener:
            return run(recipe, seed, keep, listener, traced=traced)
    except RecipeError as e:
        raise CommandError(str(e), ExitCode.USAGE) from e
    except ProgramError as e:
        raise CommandError(str(e), ExitCode.CANNOT_OBSERVE) from e
    except (FileExistsError, NotADirectoryError, PermissionError) as e:
        if keep is None:
            raise
        raise CommandError(f"--keep {keep} cannot be used: {e.strerror}", ExitCode.USAGE) from e


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a soak as Ctrl-C does: worker, server and scratch directory go with it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(recipe: Recipe) -> Iterator[Listener]:
    from rich.text import Text

    console = err()
    console.print(Text(f"{recipe.name}: {recipe.title}", style="bold"))
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
                for task in tasks.values():
                    bars.stop_task(task)
                tasks[key] = bars.add_task(f"{at.arm}: {at.phase}", total=at.cycles, now="")
            bars.update(
                tasks[key], completed=at.cycle, now=f"{at.resource} {at.value:.0f}" if at.value else ""
            )

        yield show


def _lines(at: Progress) -> None:
    from rich.text import Text

    if at.cycle % _LINE_EVERY == 0:
        value = f", {at.resource} {at.value:.0f}" if at.value else ""
        err().print(Text(f"  {at.arm}: {at.phase} {at.cycle} of at most {at.cycles}{value}"))


def soak_envelope(
    command: str, result: Result, exit_code: int, gate: tuple[GateCheck, ...] | None = None
) -> Envelope:
    """The JSON of a soak: `series` and `findings` of all arms, each arm's own part in `data.arms`."""
    lasts = [arm.outcome.recording.last for arm in result.arms if arm.outcome.recording.last is not None]
    notes = [note for last in lasts for note in last.notes] + [
        note for arm in result.arms for note in arm.notes
    ]
    return envelope(
        command,
        exit_code,
        processes=result.processes,
        tree=lasts[-1].tree if lasts else None,
        series=tuple(s for arm in result.arms for s in arm.series),
        findings=tuple(f for arm in result.arms for f in arm.findings),
        data=soak_data(result, gate),
        notes=tuple(dict.fromkeys(notes)),
    )
