"""FD190: a process that has used up its FDs, whatever the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amidiag.model import Finding, ProcessObservation

CODE = "FD190"
_NEARLY = 0.9


def find(process: ProcessObservation) -> Finding | None:
    """FD190 at the soft limit (error) or above nine tenths of it (warning)."""
    used, limit = process.fds.open, process.fds.soft_limit
    if used is None or not limit or used < _NEARLY * limit:
        return None
    # Here, as most have FDs left, and `fds` asks of every process.
    from amidiag.model import Finding

    full = used >= limit
    return Finding(
        code=CODE,
        title="No FD is left: every open, connect and fork of a loader fails with EMFILE"
        if full
        else "Nearly out of FDs",
        severity="error" if full else "warning",
        pid=process.pid,
        resource="fd",
        cause="a leak, or a limit too low for what the program needs: `amidiag rate PID` tells which",
        evidence=(f"{used} of {limit} FDs are open (soft limit)",),
    )
