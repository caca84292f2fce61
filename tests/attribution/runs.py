"""Starts a program that is traced and watched by the witness, and stops it at its quiet points."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from judging import Judgement, judge
from open_things import wait_until_quiet

from amidiag.target import inherit

HERE = Path(__file__).parent
_WITNESS = str(HERE / "witness")


class Run:
    """A running program that prints a word at each quiet point and then waits for a line."""

    def __init__(self, process: subprocess.Popen[str], log: Path | None) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    def word(self) -> str:
        """What it says next; empty once it has ended."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def go_on(self) -> None:
        """Let it go on to the next quiet point."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def judge(self) -> Judgement:
        """Once it is at rest, the tracer's answer beside the truth."""
        assert self._log
        wait_until_quiet(self.pid)
        return judge(self.pid, self._log)


@contextmanager
def started(directory: Path, name: str, *arguments: object, witness: bool = True) -> Iterator[Run]:
    """`programs/NAME.py ARGUMENTS...`, traced, in a session of its own that is killed at the end."""
    with launched(
        directory, [str(HERE / "programs" / f"{name}.py"), *map(str, arguments)], witness=witness
    ) as run:
        yield run


@contextmanager
def launched(directory: Path, words: list[str], *, witness: bool = True) -> Iterator[Run]:
    """`python WORDS...`, traced, in a session of its own that is killed at the end."""
    log = directory / "witness"
    log.mkdir()
    outer = {**os.environ, "AMIDIAG_RUNTIME_DIR": str(directory / "run"), "TMPDIR": str(directory)}
    outer.pop("PYTHONPATH", None)
    if witness:
        outer |= {"PYTHONPATH": _WITNESS, "ATTRIBUTION_LOG": str(log)}
    with (directory / "errors.txt").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *words],
            env=inherit.environment(outer),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    try:
        yield Run(process, log if witness else None)
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill the session that a process leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # All of it has ended by itself.
        process.wait()
    process.communicate()
