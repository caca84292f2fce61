"""FD tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from amidiag.model import (
    Envelope,
    FdGroup,
    FdsData,
    Finding,
    ProcessDetail,
    ProcessObservation,
    Surroundings,
    ThreadGroup,
)
from amidiag.procfs.sockets import CLOSE_WAIT
from amidiag.report.call_chain import call_site_lines
from amidiag.report.words import count, size

SHOWN = 30
"""Groups that are printed of each process; the JSON has all."""
_FEW = 3
_MEANING = {
    "self": "this process",
    "tree": "its tree",
    "other": "another process",
    "nobody": "nobody",
    "unknown": "unknown",
}
_WIDEST = 60

Row = tuple[str, ...]


def fd_report(report: Envelope, names: Mapping[str, str] | None = None) -> Iterator[RenderableType]:
    """A table per process with what bounds it, then findings and notes. `names`: of other processes, by PID."""
    data = report.data if isinstance(report.data, FdsData) else FdsData(())
    details = {detail.pid: detail for detail in data.processes}
    called = {**(names or {}), **{str(p.pid): p.role for p in report.processes if p.role != "other"}}
    said: set[str] = set()
    for process in report.processes:
        yield heading(process)
        detail = details.get(process.pid)
        if detail is not None and detail.groups is not None:
            yield from _groups(detail.groups, called, data.since)
        elif process.fds.by_type is not None:
            yield from _by_type(process)
        if detail is not None:
            yield from _around(process, detail, said)
    yield from findings(report.findings)
    for note in report.notes:
        yield Text(f"note: {note}", style="dim")


def heading(process: ProcessObservation) -> Text:
    """Name, role and FDs against the limit, in one line."""
    used, limit = process.fds.open, process.fds.soft_limit
    text = Text(f"PID {process.pid}", style="bold")
    text.append(f"  {process.name} ({process.role}, since {process.started_at})", style="not bold")
    share = f" ({used / limit:.1%})" if used is not None and limit else ""
    style = "bold red" if share and used is not None and limit and used >= 0.9 * limit else "bold"
    text.append(f"\n{count(used)} FDs of {count(limit)}{share}", style=style)
    if process.fds.hard_limit != limit:
        text.append(f", hard limit {_limit(process.fds.hard_limit)}", style="not bold")
    return text


def _lines(title: Row, rows: Sequence[tuple[Row, str]]) -> Iterator[Text]:
    """Aligned columns, the first to the right, each row with its style.

    No `rich.table`: that takes a third of the time of the whole command, and folds the paths. Here one
    that is longer than its column pushes the rest of its line aside.
    """
    whole = [title, *(row for row, _ in rows)]
    widths = [min(max(len(row[column]) for row in whole), _WIDEST) for column in range(len(title))]
    for row, style in [(title, "bold"), *rows]:
        first, *others = row
        cells = [
            first.rjust(widths[0]),
            *(cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True)),
        ]
        yield Text("  ".join(cells).rstrip(), style=style)


def _by_type(process: ProcessObservation) -> Iterator[Text]:
    by_type = process.fds.by_type or {}
    ranked = sorted(by_type.items(), key=lambda item: (-item[1], item[0]))
    yield from _lines(("FDs", "type"), [((count(number), kind), "") for kind, number in ranked if number])


def _groups(
    groups: tuple[FdGroup, ...], called: Mapping[str, str], since: str | None
) -> Iterator[RenderableType]:
    """One line per group; with `since` they are what is new."""
    if since is not None:
        total = sum(group.count for group in groups)
        yield Text(f"new since {since}: {count(total)} FDs" if total else f"nothing new since {since}")
    if not groups:
        return
    yield from _lines(
        ("FDs", "type", "what", "mode", "other end held by"),
        [(_row(group, called), _style(group)) for group in groups[:SHOWN]],
    )
    rest = groups[SHOWN:]
    if rest:
        total = sum(group.count for group in rest)
        yield Text(f"and {count(total)} more in {count(len(rest))} groups (--json has them)")


def _shown(name: str) -> str:
    """A name on one line: paths may hold newlines and what steers a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def _row(group: FdGroup, called: Mapping[str, str]) -> Row:
    held = "" if group.bytes is None else f" ({size(group.bytes)})"
    what = f"{_shown(group.what)}{held}"
    return count(group.count), group.type, what, group.mode or "?", _other_end(group, called)


def _style(group: FdGroup) -> str:
    """Red is what nobody can ever write to or read from again; a connection that waits to be closed is a sign."""
    if group.peer == "nobody":
        return "red"
    return "yellow" if group.peer == "unknown" or group.what.endswith(CLOSE_WAIT) else ""


def _other_end(group: FdGroup, called: Mapping[str, str]) -> str:
    if group.peer is None:
        return ""
    holders = list(group.peer_processes.items())
    shown = [
        (f"{pid} ({_shown(called[pid])})" if pid in called else pid)
        + (f" ×{count(number)}" if number > 1 and len(holders) > 1 else "")
        for pid, number in holders[:_FEW]
    ]
    text = f"{_MEANING[group.peer]} {', '.join(shown)}".rstrip()
    if len(holders) > _FEW:
        text += f" and {count(len(holders) - _FEW)} more"
    if group.inherited:
        text += f"; {count(group.inherited)} of them also in another process of the tree (inherited)"
    return text


def _around(process: ProcessObservation, detail: ProcessDetail, said: set[str]) -> Iterator[Text]:
    """What bounds the process, unless it was `said` of one before, and its threads in one line."""
    if detail.surroundings is not None:
        # Their figures change from one reading to the next: the machine is said once, a cgroup once.
        around = detail.surroundings
        place = f"{around.cgroup and around.cgroup.path} {around.dev_shm_mount} {around.namespace_pid}"
        if not said:
            yield Text(_machine(around))
        if place not in said:
            yield from (Text(line) for line in (_bounds(around),) if line)
        said.add(place)
    if detail.threads:
        yield _threads(detail.threads, process.threads)


def _machine(around: Surroundings) -> str:
    return (
        f"host: {count(around.files_open)} FDs of {_limit(around.files_max)}, "
        f"at most {count(around.nr_open)} a process (fs.nr_open); "
        f"memory {size(around.memory_available)} free of {size(around.memory_total)}"
    )


def _bounds(around: Surroundings) -> str:
    """Its cgroup, its /dev/shm and its namespaces."""
    parts = []
    if around.cgroup is not None:
        group = around.cgroup
        limit = "no limit" if group.limit is None else size(group.limit)
        pressure = "" if group.pressure is None else f", waits for memory {group.pressure:.1%} of the time"
        parts.append(f"cgroup v{group.version} {group.path}: {size(group.used)} of {limit}{pressure}")
    if around.dev_shm is not None:
        mount = f" ({around.dev_shm_mount})" if around.dev_shm_mount else ""
        parts.append(f"/dev/shm: {size(around.dev_shm.used)} of {size(around.dev_shm.size)}{mount}")
    if around.namespace_pid is not None:
        parts.append(f"PID {around.namespace_pid} inside its namespace")
    if around.own_mount_namespace:
        parts.append("own mounts")
    return "; ".join(parts)


def _limit(number: int | None) -> str:
    return "unlimited" if number is None else count(number)


def _threads(groups: tuple[ThreadGroup, ...], total: int | None) -> Text:
    parts = [
        f"{group.name}{f' ×{count(group.count)}' if group.count > 1 else ''} ({group.state}"
        f"{f', {group.waits_in}' if group.waits_in else ''})"
        for group in groups[:_FEW]
    ]
    left = sum(group.count for group in groups[_FEW:])
    more = f" and {count(left)} more" if left else ""
    return Text(f"threads {count(total)}: {_shown(', '.join(parts))}{more}")


def findings(found: tuple[Finding, ...]) -> Iterator[RenderableType]:
    """Findings with cause, evidence and settings."""
    styles = {"error": "bold red", "warning": "bold yellow", "info": "bold"}
    for finding in found:
        text = Text(f"\n{finding.code} {finding.title}", style=styles[finding.severity])
        text.append(f"\n  why: {finding.cause}", style="not bold default")
        for line in finding.evidence:
            label, rest = ("refuted if", line[11:]) if line.startswith("refuted if ") else ("seen", line)
            text.append(f"\n  {label}: {rest}", style="not bold default")
        for number, line in enumerate(call_site_lines(finding.call_sites)):
            text.append(f"\n  {'      ' if number else 'from: '}{line}", style="not bold default")
        for mitigation in finding.mitigations:
            proven = {True: " (proven here)", False: " (did not help here)", None: ""}[mitigation.proven]
            name = f"{mitigation.setting}{'' if mitigation.dialect == 'pip' else '='}{mitigation.value}"
            text.append(f"\n  fix: {name}{proven}", style="bold green")
            text.append(f"\n       {mitigation.why}; costs: {mitigation.costs}", style="not bold default")
        if finding.url:
            text.append(f"\n  see: {finding.url}", style="not bold default")
        yield text
