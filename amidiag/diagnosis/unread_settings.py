"""CFG100: settings that were set and that the worker does not read.

A setting that is silently ignored has cost users days: in issue #145 a mitigation "did not help"
because its variable did not exist in that version of the worker (FACTS 6).
"""

from __future__ import annotations

import difflib

from amidiag.diagnosis.context import Context
from amidiag.model import Finding

CODE = "CFG100"
# Never published: a secret.
_SECRET = "AMI_ANTENNA_API_AUTH_TOKEN"


def find(context: Context) -> Finding | None:
    """CFG100, if the worker publishes its settings and some that were asked for are not among them."""
    if not context.settings:
        return None
    unread = [
        name
        for name in context.asked
        if name.startswith("AMI_") and name != _SECRET and name not in context.settings
    ]
    if not unread:
        return None
    return Finding(
        code=CODE,
        title="Settings were set that the worker does not read",
        severity="warning",
        pid=context.process.pid,
        resource=None,
        cause="the name is misspelt, or this version of the worker has no such setting: it has no effect",
        evidence=tuple(_nearest(name, tuple(context.settings)) for name in unread),
    )


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name}: did you mean {near[0]}?" if near else name
