"""Shared memory for people: each process, the tree, /dev/shm, the segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amidiag.model import DevShm, Envelope, ProcessObservation, SegmentUse, ShmData, ShmUse, TreeUse
from amidiag.report.words import count, duration, size

SHOWN = 20
"""Segments that are printed; the JSON has all."""
_PIDS = 6


def shm_report(report: Envelope) -> Iterator[RenderableType]:
    """Processes, tree, segments, notes."""
    assert isinstance(report.data, ShmData)
    for process in report.processes:
        yield _process(process)
    if report.tree is not None:
        yield from _tree(report.tree, report.data, of_tree=bool(report.processes))
    if report.processes:
        yield from _segments(report.data.segments)
    for note in report.notes:
        yield Text(f"note: {note}", style="dim")


def _process(process: ProcessObservation) -> Text:
    text = Text(f"PID {process.pid}", style="bold")
    text.append(f"  {process.name} ({process.role})", style="not bold")
    text.append(f"\n  held {size(process.shm.held)}{_kinds(process.shm)}", style="not bold")
    text.append(f"; mapped and touched (RssShmem) {size(process.shm.rss)}", style="not bold")
    return text


def _kinds(use: ShmUse) -> str:
    kinds = {kind: held for kind, held in (use.by_kind or {}).items() if held}
    return f" ({', '.join(f'{kind} {size(held)}' for kind, held in kinds.items())})" if kinds else ""


def _tree(tree: TreeUse, data: ShmData, *, of_tree: bool) -> Iterator[Text]:
    if of_tree:
        least = "at least " if tree.shm_unique_is_lower_bound else ""
        text = Text(f"the tree holds {least}{size(tree.shm_unique)}, each segment once", style="bold")
        text.append(f"; in flight, held by FDs and mapped by nobody: {size(data.in_flight)}")
        yield text
    if tree.dev_shm is not None:
        yield _dev_shm(tree.dev_shm)


def _dev_shm(dev_shm: DevShm) -> Text:
    used, whole = dev_shm.used, dev_shm.size
    share = f" ({used / whole:.1%})" if used is not None and whole else ""
    style = "bold red" if used is not None and whole and used >= 0.9 * whole else ""
    return Text(f"/dev/shm: {size(used)} of {size(whole)} used{share}", style=style)


def _segments(segments: Sequence[SegmentUse]) -> Iterator[RenderableType]:
    if not segments:
        yield Text("no shared memory segments")
        return
    table = _table("allocated", "size", "segment", "mapped by", "held by", "made by", "age")
    for segment in segments[:SHOWN]:
        table.add_row(
            size(segment.allocated),
            size(segment.size),
            segment.name + (" (deleted)" if segment.deleted else ""),
            _pids(segment.mapped_by) or Text("nobody: in flight", style="yellow"),
            _pids(segment.held_by),
            creator(segment.creator, alive=segment.creator_alive),
            age(segment.age),
        )
    yield table
    left = segments[SHOWN:]
    if left:
        held = sum(segment.allocated or 0 for segment in left)
        yield Text(f"… {count(len(left))} more segments ({size(held)}); --json has all", style="dim")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        is_number = title in ("allocated", "size", "age")
        table.add_column(title, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    return table


def _pids(pids: Sequence[int]) -> str:
    shown = ", ".join(map(str, pids[:_PIDS]))
    return shown + (f" and {count(len(pids) - _PIDS)} more" if len(pids) > _PIDS else "")


def creator(pid: int | None, *, alive: bool | None) -> str:
    """`4711 (ended)`; empty where no creator is known."""
    state = {True: "runs", False: "ended", None: "not known whether it runs"}[alive]
    return "" if pid is None else f"{pid} ({state})"


def age(seconds: float | None) -> str:
    """How old, `?` where it is not known."""
    return "?" if seconds is None else duration(seconds)
