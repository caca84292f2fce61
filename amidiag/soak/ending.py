"""Whether the worker ended as it was told."""

from __future__ import annotations

import signal

from amidiag.model import Finding

# Told by SIGTERM: a worker drains and ends with 0, a program without a handler dies of the signal.
_AS_TOLD = (0, -signal.SIGTERM)


def ending(status: int) -> tuple[Finding, ...]:
    """PROC110, if the worker failed while it was drained, or had to be killed.

    `status` is an exit status, negative for a signal.
    """
    if status in _AS_TOLD:
        return ()
    if status == -signal.SIGKILL:
        cause = "it did not end in time after SIGTERM and had to be killed, or something else killed it"
    else:
        cause = f"it ended with {f'signal {-status}' if status < 0 else f'exit status {status}'} when it was drained"
    return (
        Finding(
            code="PROC110",
            title="The worker did not end as it was told",
            severity="error",
            pid=None,
            resource=None,
            cause=cause,
            evidence=(f"exit status {status} after SIGTERM; `--keep DIR` keeps its log",),
        ),
    )
