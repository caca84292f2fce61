"""From judged series to named causes and settings."""

from __future__ import annotations

from dataclasses import replace

from amidiag.diagnosis import growth, limits, sentinel_pipes, unread_settings
from amidiag.diagnosis.context import Context
from amidiag.model import Finding


def diagnose(context: Context) -> tuple[Finding, ...]:
    """All findings for one worker: known causes first, then growth that none of them explains."""
    known = [f for f in (sentinel_pipes.find(context),) if f is not None]
    explained = frozenset(f.resource for f in known if f.resource)
    grown = [
        replace(f, call_sites=context.call_sites(f.resource))
        for f in (*known, *growth.find(context, explained))
    ]
    states = (limits.find(context.process), unread_settings.find(context))
    return (*grown, *(f for f in states if f is not None))
