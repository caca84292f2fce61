"""Programs that hold real things, and tables that say where they were made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attach_hands import HANDS, Hands, StartHands
from attach_tables import TableWriter

from amidiag.procfs.identity import identify


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def start_hands(tmp_path: Path) -> Iterator[StartHands]:
    """Start `hands.py` in its own session, below `wrapper`; all of it is killed when the test ends."""
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object, wrapper: tuple[str, ...] = ()) -> Hands:
        process = subprocess.Popen(
            [*wrapper, sys.executable, str(HANDS), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        running.append(process)
        return Hands(process)

    yield start
    for process in running:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:  # All of it has ended by itself.
            process.wait()
        process.communicate()


@pytest.fixture
def hands(start_hands: StartHands) -> Hands:
    return start_hands()


@pytest.fixture
def table(hands: Hands) -> TableWriter:
    """A table of `hands`, with its own region claimed now, and one for a child."""
    identity = identify(hands.pid)
    table = TableWriter(hands.pid, identity.start_ticks, regions=4)
    hands.do("pipe")
    table.claim(hands.pid, hands.at)
    return table


@pytest.fixture
def take(hands: Hands, table: TableWriter, runtime: Path) -> Callable[[], Path]:
    """Save the table and let `hands` map it; the path."""

    def save() -> Path:
        path = table.save(runtime / f"{hands.pid}-{identify(hands.pid).start_ticks}.trace")
        hands.do(f"take {path}")
        return path

    return save
