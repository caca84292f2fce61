"""Growth that no known leak explains: named by its resource, so that it is never passed over."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.diagnosis.context import Context
from amidiag.model import Finding


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
    """A finding for every proven leak that is not `explained` (resources such as "fd.pipe")."""
    findings = []
    for growth in _GENERIC:
        series = context.leaking(growth.resource)
        parts = _leaking_parts(context, growth.resource)
        unexplained = [part for part in parts if part not in explained]
        if series is None or (parts and not unexplained):
            continue
        findings.append(
            Finding(
                code=growth.code,
                title=growth.title,
                severity="error",
                pid=context.process.pid,
                resource=growth.resource,
                cause=f"{growth.cause}; {_by_whom(context, growth.resource)}",
                evidence=(*series.evidence, *_where(unexplained)),
            )
        )
    return findings


def _leaking_parts(context: Context, resource: str) -> list[str]:
    """The types of which a total is made that leak themselves (`fd.socket`, not `fd.pipe.nobody`)."""
    own = resource.count(".") + 1
    named = [s.resource for s in context.series if s.resource.startswith(resource + ".")]
    return [name for name in named if name.count(".") == own and context.leaking(name)]


def _by_whom(context: Context, resource: str) -> str:
    if context.call_sites(resource):
        return "the call sites say which code has made what is open now"
    return "which code does it is not known without tracing (AMI_DIAG_TRACE=1, or `amidiag run`)"


def _where(parts: list[str]) -> list[str]:
    return [f"the growth is in {', '.join(parts)}"] if parts else []
