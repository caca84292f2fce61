"""Shared memory for people: each process, the tree, /dev/shm, the segments, the orphans, what was removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amidiag.model import DevShm, Envelope, Orphan, ProcessObservation, SegmentUse, ShmData, ShmUse, TreeUse
from amidiag.procfs.segments import SHM_DIRECTORY
from amidiag.report.words import count, duration, size

SEMAPHORE = SHM_DIRECTORY + "sem."
SHOWN = 20
"""Segments, and orphans, that are printed; the JSON has all."""
_PIDS = 6
_NAMED = 3


def shm_report(report: Envelope) -> Iterator[RenderableType]:
    """Processes, tree, segments, notes."""
    assert isinstance(report.data, ShmData)
    for process in report.processes:
        yield _process(process)
    if report.tree is not None:
        yield from _tree(report.tree, report.data, of_tree=bool(report.processes))
    if report.processes:
        yield from _segments(report.data)
    looked = (
        report.tree is not None
        and report.tree.dev_shm is not None
        and report.tree.dev_shm.orphans is not None
    )
    yield from _orphans(report.data.orphans, looked=looked)
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
        text.append(f"; in flight, mapped by nobody: {size(data.in_flight)}")
        yield text
    if tree.dev_shm is not None:
        yield _dev_shm(tree.dev_shm)


def _dev_shm(dev_shm: DevShm) -> Text:
    used, whole = dev_shm.used, dev_shm.size
    share = f" ({used / whole:.1%})" if used is not None and whole else ""
    style = "bold red" if used is not None and whole and used >= 0.9 * whole else ""
    return Text(f"/dev/shm: {size(used)} of {size(whole)} used{share}", style=style)


def _segments(data: ShmData) -> Iterator[RenderableType]:
    segments = data.segments
    if not segments:
        # What could not be read is not "none"; the notes say who may read it.
        yield Text("segments: not known" if data.in_flight is None else "no shared memory segments")
        return
    semaphores = [s for s in segments if s.name.startswith(SEMAPHORE)]
    others = [s for s in segments if not s.name.startswith(SEMAPHORE)]
    if others:
        table = _table("allocated", "size", "segment", "mapped by", "held by", "made by", "age")
        for segment in others[:SHOWN]:
            table.add_row(*_segment_cells(segment))
        yield table
    yield from _more(others[SHOWN:], "segments")
    if semaphores:
        held = sum(segment.allocated or 0 for segment in semaphores)
        yield Text(f"and {count(len(semaphores))} semaphores in use ({size(held)})", style="dim")


def _segment_cells(segment: SegmentUse) -> tuple[str | Text, ...]:
    waits = "nobody: in flight" if segment.held_by else "nobody: waits by its name"
    return (
        size(segment.allocated),
        size(segment.size),
        segment.name + (" (deleted)" if segment.deleted else ""),
        _pids(segment.mapped_by) or Text(waits, style="yellow"),
        _pids(segment.held_by),
        creator(segment.creator, alive=segment.creator_alive),
        age(segment.age),
    )


def _orphans(orphans: Sequence[Orphan], *, looked: bool) -> Iterator[RenderableType]:
    if not looked:
        yield Text("orphans in /dev/shm: not looked for")
    if not orphans:
        if looked:
            yield Text("no orphans: no segment that nobody maps or holds")
        return
    held = sum(orphan.allocated or 0 for orphan in orphans)
    kinds = Counter(orphan.kind for orphan in orphans)
    shares = ", ".join(f"{kind} {count(number)}" for kind, number in kinds.most_common())
    text = Text(f"\n{orphans_of(len(orphans))} that nobody maps or holds, {size(held)}", style="bold")
    text.append(f" ({shares})", style="not bold")
    yield text
    table = _table("allocated", "size", "orphan", "made by", "age", "")
    for orphan in orphans[:SHOWN]:
        table.add_row(
            size(orphan.allocated),
            size(orphan.size),
            orphan.name,
            creator(orphan.creator, alive=orphan.creator_alive),
            age(orphan.age),
            _state(orphan),
        )
    yield table
    yield from _more(orphans[SHOWN:], "orphans")


def _state(orphan: Orphan) -> str:
    words = []
    if orphan.unfinished:
        words.append("unfinished: its maker was killed while it made it")
    if orphan.creator_alive:
        words.append("its maker runs: it may be queued")
    if not orphan.certain:
        words.append("not certain")
    return "; ".join(words)


def _more(left: Sequence[SegmentUse] | Sequence[Orphan], noun: str) -> Iterator[Text]:
    if left:
        held = sum(one.allocated or 0 for one in left)
        yield Text(f"… {count(len(left))} more {noun} ({size(held)}); --json has all", style="dim")


def plan(removable: Sequence[Orphan], kept: Mapping[str, str]) -> Iterator[Text]:
    """What `--reap` would remove, by name, and what it keeps for which reason."""
    for orphan in removable[:SHOWN]:
        yield Text(f"removable: {orphan.name} ({size(orphan.allocated)})")
    yield from _more(removable[SHOWN:], "removable")
    yield from _kept(kept)


def reaped(data: ShmData, kept_before: Mapping[str, str]) -> Iterator[Text]:
    """What `--reap` removed, and what it kept beyond `kept_before`."""
    sizes = {orphan.name: orphan.allocated or 0 for orphan in data.orphans}
    freed = sum(sizes[name] for name in data.removed)
    done = f"removed {orphans_of(len(data.removed))}, {size(freed)}" if data.removed else "nothing removed"
    yield Text(done, style="bold")
    yield from _kept({name: reason for name, reason in data.kept.items() if name not in kept_before})


def _kept(kept: Mapping[str, str]) -> Iterator[Text]:
    names: dict[str, list[str]] = {}
    for name, reason in kept.items():
        names.setdefault(reason, []).append(name)
    for reason, same in names.items():
        more = f" and {count(len(same) - _NAMED)} more" if len(same) > _NAMED else ""
        yield Text(f"kept {', '.join(same[:_NAMED])}{more}: {reason}", style="yellow")


def orphans_of(number: int) -> str:
    """`1 orphan`, `625 orphans`."""
    return f"{count(number)} orphan{'' if number == 1 else 's'}"


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
