"""Starts and ends the target programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from procfs_targets import PROGRAMS, Spawn, Start, Target


def end(process: subprocess.Popen[Any]) -> None:
    """Kill the session that a process leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # All of it has ended by itself.
        process.wait()
    process.communicate()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`subprocess.Popen` in its own session; all of it is killed when the test ends."""
    running: list[subprocess.Popen[bytes]] = []

    def spawner(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen(command, start_new_session=True, **options))
        return running[-1]

    yield spawner
    for process in running:
        end(process)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `programs/NAME.py ARGS...` in its own session; all of it is killed when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def starter(name: str, *args: object) -> Target:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAMS / f"{name}.py"), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        running.append(process)
        assert process.stdout
        line = process.stdout.readline()
        assert line, f"{name} ended with {process.wait()} before it was ready"
        return Target(process, json.loads(line))

    yield starter
    for process in running:
        end(process)
