"""FD tables for people."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from amidiag.model import Envelope, Finding, PeerCounts, ProcessObservation
from amidiag.report.call_chain import call_site_lines
from amidiag.report.words import count

_PEERS = ("self", "tree", "other", "nobody", "unknown")
_MEANING = {
    "self": "this process",
    "tree": "its tree",
    "other": "another process",
    "nobody": "nobody",
    "unknown": "unknown",
}


def fd_report(report: Envelope) -> Iterator[RenderableType]:
    """One table per process, then findings and notes."""
    for process in report.processes:
        yield heading(process)
        if process.fds.by_type is not None:
            yield _by_type(process)
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
    return text


def _by_type(process: ProcessObservation) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("type")
    table.add_column("FDs", justify="right")
    table.add_column("other end held by")
    by_type = process.fds.by_type or {}
    for kind, number in sorted(by_type.items(), key=lambda item: (-item[1], item[0])):
        if number:
            table.add_row(kind, count(number), _peers((process.fds.peers or {}).get(kind)))
    return table


def _peers(peers: PeerCounts | None) -> Text:
    if peers is None:
        return Text("")
    parts = [(name, getattr(peers, name)) for name in _PEERS]
    text = Text()
    for name, number in parts:
        if number:
            text.append(", " if text else "")
            text.append(f"{_MEANING[name]} {count(number)}", style="red" if name == "nobody" else "")
    return text


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
