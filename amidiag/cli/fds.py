"""`amidiag fds`."""

from __future__ import annotations

from typing import Annotated

from amidiag.cli.door import Json, envelope, print_json
from amidiag.cli.options import Argument, Option
from amidiag.model import ExitCode

NAME = "fds"
EXAMPLES = """\b
Examples:
  amidiag fds 4711             counts by type, limit and pipe peers
  amidiag fds 4711 --tree      with its loader processes and other descendants
  amidiag fds 4711 --json | jq '.processes[0].fds.by_type'
Reads /proc only; the process is not stopped and nothing is written into it."""


def command(
    pid: Annotated[int, Argument(min=1, help="The process to look at.")],
    tree: Annotated[bool, Option("--tree", help="Show its descendants too.")] = False,
    as_json: Json = False,
) -> int:
    """Count the open FDs of a process by type, against its limit, and say who holds the other end of its pipes."""
    from amidiag.attach.status import StatusReader
    from amidiag.diagnosis import limits
    from amidiag.procfs.observe import observe_tree

    observation = observe_tree(pid, status_reader=StatusReader())
    shown = observation.processes if tree else observation.processes[:1]
    findings = tuple(f for f in (limits.find(process) for process in shown) if f is not None)
    code = ExitCode.FINDING if findings else ExitCode.CLEAN
    report = envelope(
        NAME,
        code,
        processes=shown,
        tree=observation.tree,
        findings=findings,
        notes=observation.notes,
    )
    if as_json:
        print_json(report)
    else:
        from amidiag.cli.door import out
        from amidiag.report.fd_table import fd_report

        for part in fd_report(report):
            out().print(part)
    return code
