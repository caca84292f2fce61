"""Real target programs for the tests of `/proc` reading."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROGRAMS = Path(__file__).parent / "programs"


class Target:
    """A running program. `said` is the JSON of its first line, which it prints once all is set up."""

    def __init__(self, process: subprocess.Popen[str], said: Any) -> None:
        self.process = process
        self.pid = process.pid
        self.said = said

    def tell(self, word: str) -> Any:
        """Send a line and return the JSON of the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


Start = Callable[..., Target]
Spawn = Callable[..., subprocess.Popen[bytes]]


def run_program(name: str, *args: object) -> Any:
    """Run `programs/NAME.py ARGS...` to its end and return the JSON of its last line."""
    command = [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
