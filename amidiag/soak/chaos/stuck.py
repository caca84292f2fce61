"""What the processes of a worker that does not get on are at: for the report, before it is killed."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from amidiag.procfs.processes import ProcStat

_LIMIT_S = 20.0


def stacks(tree: Sequence[ProcStat]) -> list[str]:
    """For each process: name, state, where in the kernel it waits; by py-spy, if it is installed, where in Python."""
    lines = []
    for stat in tree:
        waits = ""
        with contextlib.suppress(OSError):
            waits = Path(f"/proc/{stat.pid}/wchan").read_text(encoding="ascii", errors="replace")
        lines.append(f"{stat.pid} {stat.name} state {stat.state} in {waits or '?'}")
        lines += _python(stat.pid)
    return lines


def _python(pid: int) -> list[str]:
    program = shutil.which("py-spy")
    if program is None:
        return []
    with contextlib.suppress(subprocess.TimeoutExpired):
        dumped = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
        )
        return [f"    {line}" for line in dumped.stdout.splitlines() if line.strip()]
    return []
