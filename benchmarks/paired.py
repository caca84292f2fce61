"""CPU time of programs, measured in turns so that a noisy machine disturbs all of them alike, and a table of it."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Measure = Callable[[], float]


@dataclass(frozen=True)
class Row:
    """One line of the table. `ours` and `theirs` are medians, in `unit`; without `theirs` the bound is absolute."""

    what: str
    ours: float
    theirs: float | None
    value: float
    bound: float | None
    unit: str = "ms"

    @property
    def met(self) -> bool:
        """Whether the bound holds; where there is none, the line only shows."""
        return self.bound is None or self.value <= self.bound

    def cells(self) -> tuple[str, ...]:
        """As text: what, ours, theirs, ratio, target, met."""
        theirs = "" if self.theirs is None else f"{self.theirs:.4g} {self.unit}"
        ratio = "" if self.theirs is None else f"{self.value:.2f}"
        unit = "" if self.theirs is not None else f" {self.unit}"
        bound = "" if self.bound is None else f"≤ {self.bound:g}{unit}"
        met = "shown" if self.bound is None else "met" if self.met else "NOT met"
        return self.what, f"{self.ours:.4g} {self.unit}", theirs, ratio, bound, met


def cpu_ms(command: Sequence[str] | str) -> float:
    """CPU of a program and all that it waited for: user and system, in ms. A string goes through the shell."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Python code is compiled once, as pip does when it installs, and not in every run.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command,
        env=environment,
        shell=isinstance(command, str),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # lsof says 1 where it could not look at something; amidiag 1 where it has a finding.
    if done.returncode not in (0, 1):
        sys.exit(f"{command}: exit code {done.returncode}: {done.stderr}")
    return (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) * 1000


def said_ms(command: Sequence[str]) -> float:
    """The milliseconds that a program prints of itself."""
    return float(subprocess.check_output(command, text=True))


def in_turns(measures: Sequence[Measure], rounds: int) -> list[list[float]]:
    """The results of each measure, taken in turns, after one round for warmth that does not count."""
    results: list[list[float]] = [[] for _ in measures]
    for turn in range(rounds + 1):
        for measure, values in zip(measures, results, strict=True):
            value = measure()
            if turn:
                values.append(value)
    return results


def against(what: str, ours: list[float], theirs: list[float], bound: float) -> Row:
    """A row whose value is the median of the ratios of each round."""
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return Row(what, statistics.median(ours), statistics.median(theirs), ratio, bound)


def alone(what: str, values: list[float], bound: float | None, unit: str = "ms") -> Row:
    """A row with an absolute bound on the median."""
    middle = statistics.median(values)
    return Row(what, middle, None, middle, bound, unit)


def print_table(rows: Sequence[Row]) -> None:
    """The rows as a Markdown table."""
    table = [("what", "ours", "theirs", "ratio", "target", ""), *(row.cells() for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in table
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))
