"""From judged series to named causes and settings."""

from __future__ import annotations

from amidiag.diagnosis import growth, limits, sentinel_pipes
from amidiag.diagnosis.context import Context
from amidiag.model import Finding

__all__ = ["Context", "diagnose"]


def diagnose(context: Context) -> tuple[Finding, ...]:
    """All findings for one worker: known causes first, then growth that none of them explains."""
    known = [f for f in (sentinel_pipes.find(context),) if f is not None]
    explained = frozenset(f.resource.split(".")[0] for f in known if f.resource)
    at_limit = limits.find(context.process)
    return (*known, *growth.find(context, explained), *([at_limit] if at_limit else []))
