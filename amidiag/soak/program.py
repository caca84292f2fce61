"""The worker under test: started as a process of its own, and ended with everything that it started."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import psutil

# A killed soak must not leave its worker behind: prctl(2), PR_SET_PDEATHSIG = 1, kept over the exec. In a program
# of its own, because `preexec_fn` is not safe beside the thread that draws the progress bar.
_DIES_WITH_PARENT = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class ProgramError(Exception):
    """The program could not be started, or ended by itself. The text says how, with its last words."""


class Program:
    """A program with its settings in the environment, and faults armed through the launcher.

    It runs in `directory` (so that no `.env` of the caller is read), in a session of its own (so that
    Ctrl-C reaches the soak first), with its output in `directory/worker.log`. The caller's own `AMI_`
    variables are left out: a recipe fixes what its point depends on.
    """

    def __init__(
        self, command: tuple[str, ...], settings: Mapping[str, str], faults: tuple[str, ...], directory: Path
    ) -> None:
        self.log = directory / "worker.log"
        self._fault_report = directory / "faults.json"
        env = {k: v for k, v in os.environ.items() if not k.startswith("AMI_")}
        with self.log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    self._words(command, faults),
                    env={**env, **settings, "PYTHONUNBUFFERED": "1"},
                    cwd=directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as e:
                raise ProgramError(f"cannot start {' '.join(command)}: {e.strerror}") from e
        self.pid = self._process.pid

    def _words(self, command: tuple[str, ...], faults: tuple[str, ...]) -> list[str]:
        found = _which(command[0])
        if found is None:
            raise ProgramError(
                f"cannot start {command[0]}: not found; the worker comes with pip install 'amidiag[worker]'"
            )
        program = [found, *command[1:]]
        if faults:
            arm = [word for name in faults for word in ("--arm", name)]
            launcher = [sys.executable, "-m", "amidiag.soak.faults.launcher", *arm]
            program = [*launcher, "--report", str(self._fault_report), "--", *program]
        return [sys.executable, "-I", "-S", "-c", _DIES_WITH_PARENT, *program]

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        return self._process.poll()

    @property
    def faults(self) -> dict[str, str]:
        """What the launcher says of each fault: armed, or not needed on this host. Empty before it said so."""
        try:
            report: dict[str, str] = json.loads(self._fault_report.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return report

    def last_words(self, lines: int = 12) -> str:
        """The end of its output."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, patience: float = 20.0) -> int:
        """End it: SIGTERM, SIGKILL after `patience` seconds, then whatever it had started. Its exit status."""
        family = _descendants(self.pid)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(patience)
            except subprocess.TimeoutExpired:
                family += _descendants(self.pid)
                self._process.kill()
        status = self._process.wait()
        for process in family:
            # psutil compares start times before it signals.
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=5)
        return status

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(patience=20.0 if kind is None else 3.0)


def _which(name: str) -> str | None:
    # The worker that was installed with this amidiag comes first, whether or not the venv is activated.
    beside = Path(sys.executable).parent / name
    return str(beside) if os.sep not in name and beside.is_file() else shutil.which(name)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
