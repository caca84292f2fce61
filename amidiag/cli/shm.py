"""`amidiag shm`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from amidiag.cli.door import Json, envelope, print_json
from amidiag.model import ExitCode, ShmData

if TYPE_CHECKING:
    from amidiag.model import Observation
    from amidiag.procfs.shm_tree import TreeSegments

NAME = "shm"
EXAMPLES = """\b
Examples:
  amidiag shm 4711             its shared memory, segment by segment: who maps it, who holds it, who made it
  amidiag shm 4711 --tree      with its loader processes and other descendants, each segment once
Reads /proc only; the process is not stopped and nothing is written into it."""


def command(
    pid: Annotated[int, typer.Argument(min=1, help="The process to look at.")],
    tree: Annotated[bool, typer.Option("--tree", help="With its descendants.")] = False,
    as_json: Json = False,
) -> int:
    """Show shared memory: segments by kind, who maps, holds and made them."""
    from amidiag.attach.status import StatusReader
    from amidiag.procfs.observe import observe_tree

    observation = observe_tree(pid, peers=False, status_reader=StatusReader())
    shown = observation.processes if tree else observation.processes[:1]
    found = _segments(observation, len(shown))
    report = envelope(
        NAME,
        ExitCode.CLEAN,
        processes=shown,
        tree=observation.tree,
        data=ShmData(found.segments, found.in_flight, ()),
        notes=(*observation.notes, *found.notes),
    )
    if as_json:
        print_json(report)
    else:
        from amidiag.cli.door import out
        from amidiag.report.shm_table import shm_report

        for part in shm_report(report):
            out().print(part, soft_wrap=True)
    return ExitCode.CLEAN


def _segments(observation: Observation, number: int) -> TreeSegments:
    """Of the first processes of the tree, so many."""
    from amidiag.model import Identity
    from amidiag.procfs.shm_tree import read_segments

    members = observation.processes[:number]
    return read_segments([(Identity(observation.boot_id, p.pid, p.start_ticks), p.name) for p in members])
