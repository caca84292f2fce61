"""Growth that no known leak explains: named by its resource, so that it is never passed over."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.diagnosis.context import Context
from amidiag.model import Finding, SeriesReport


@dataclass(frozen=True, slots=True)
class _Growth:
    code: str
    resource: str
    title: str
    cause: str


# Totals before their parts: a type is blamed only where the total drifts too.
_GENERIC = (
    _Growth("FD100", "fd", "Open FDs grow", "FDs are opened and not closed"),
    _Growth("SHM100", "shm.held", "Shared memory grows", "segments stay mapped or held by an FD"),
    _Growth("MEM100", "memory.rss", "Resident memory grows", "memory is allocated and not given back"),
    _Growth("PROC100", "threads", "Threads grow", "threads are started and do not end"),
    _Growth(
        "PROC101", "children", "Child processes grow", "children are started and not ended or not waited for"
    ),
)


def find(context: Context, explained: frozenset[str]) -> list[Finding]:
    """A finding for every proven leak outside the `explained` kinds ("fd", "shm", …)."""
    findings = []
    for growth in _GENERIC:
        series = context.drifting(growth.resource)
        kind = growth.resource.split(".")[0]
        if series is None or series.verdict != "leak" or kind in explained:
            continue
        findings.append(
            Finding(
                code=growth.code,
                title=growth.title,
                severity="error",
                pid=context.process.pid,
                resource=growth.resource,
                cause=f"{growth.cause}; which code does it is not known from outside",
                evidence=tuple(_evidence(context, series)),
            )
        )
    return findings


def _evidence(context: Context, series: SeriesReport) -> list[str]:
    lines = list(series.evidence)
    parts = [
        s.resource
        for s in context.series
        if s.resource.startswith(series.resource + ".") and s.verdict in ("leak", "growing")
    ]
    if parts:
        lines.append(f"the growth is in {', '.join(parts)}")
    return lines
