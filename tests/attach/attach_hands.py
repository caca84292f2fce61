"""A program that holds real things, and does what it is told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attach_tables import TableWriter

from amidiag.target.trace_layout import BY_INODE

HANDS = Path(__file__).parent / "programs" / "hands.py"


class Hands:
    """The program `hands.py`, running. `pid` as it calls itself."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = process.pid
        assert process.stdout
        line = process.stdout.readline()
        assert line, f"ended with {process.wait()} before it was ready"
        self.own_pid = int(line)
        self.at = 0

    def do(self, *commands: str) -> Any:
        """Its answer; `at` is when it had done it (boot time, ns)."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(";".join(commands) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        self.at = said["at"]
        return said["answer"]

    def tell(self, command: str) -> None:
        """Send a command that is not answered."""
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def pipe_made(self, table: TableWriter, line: int, region: int = 0) -> Any:
        """A pipe, and that it was made at `program.py:LINE`."""
        ends = self.do("pipe")
        site = table.site([("/srv/program.py", "main", line)], region)
        table.slot(
            "pipe", BY_INODE, fd=ends[0]["fd"], device=ends[0]["device"], inode=ends[0]["inode"],
            at=self.at, site=site, region=region,
        )  # fmt: skip
        return ends


StartHands = Callable[..., Hands]
