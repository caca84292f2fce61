"""Programs that are traced, each in a directory of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from trace_programs import Programs, Running, pythons


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """This Python. What is still running when the test ends is killed, with its session."""
    running: list[Running] = []
    programs = _Kept(tmp_path, running)
    yield programs
    for one in running:
        try:
            os.killpg(one.process.pid, signal.SIGKILL)
        except ProcessLookupError:  # All of it has ended by itself.
            one.process.wait()
        one.process.communicate()


class _Kept(Programs):
    def __init__(self, directory: Path, running: list[Running]) -> None:
        super().__init__(directory)
        self._running = running

    def start(self, *arguments: object, **more: object) -> Running:
        self._running.append(super().start(*arguments, **more))  # type: ignore[arg-type]
        return self._running[-1]


@pytest.fixture(params=pythons(), ids=lambda path: path.split("/")[-3] if ".pyenv" in path else "this")
def every_python(request: pytest.FixtureRequest, programs: Programs) -> Programs:
    """The same for each Python that there is here."""
    programs.python = request.param
    return programs
