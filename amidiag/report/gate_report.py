"""What a gate decided, for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amidiag.model import ExitCode, GateCheck
from amidiag.report.fd_table import findings
from amidiag.report.junit import Case
from amidiag.report.soak_report import answer, armed
from amidiag.soak.experiment import Result

_STYLE = {"failed": "bold red", "undecided": "yellow", "passed": "green"}
_ORDER = ("failed", "undecided", "passed")


def gate_report(result: Result, checks: tuple[GateCheck, ...], exit_code: int) -> Iterator[RenderableType]:
    """What was armed, one row per check, failures first, the findings with what to do, then the decision."""
    yield from armed(result)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "arm", "check", "what it says"):
        table.add_column(name)
    for check in sorted(checks, key=lambda c: _ORDER.index(c.outcome)):
        table.add_row(Text(check.outcome, _STYLE[check.outcome]), check.arm, check.name, check.message)
    yield table
    for arm in result.arms:
        yield from findings(arm.findings)
    yield from answer(result)
    words = {
        ExitCode.CLEAN: "gate passed",
        ExitCode.FINDING: "gate failed: see what failed above",
        ExitCode.UNDECIDED: "gate undecided: the cycles were not enough (--undecided pass lets this through)",
    }
    yield Text(f"\n{words[exit_code]}", style="bold")


def cases(checks: tuple[GateCheck, ...]) -> tuple[Case, ...]:
    """The checks as JUnit test cases; the first of each arm carries the arm's time, since CI systems add them up."""
    timed: set[str] = set()
    found = []
    for c in checks:
        found.append(
            Case(c.arm, c.name, c.outcome, c.message, c.detail, 0.0 if c.arm in timed else c.seconds)
        )
        timed.add(c.arm)
    return tuple(found)
