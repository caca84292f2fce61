"""The worker under test: a process of its own below a keeper, which ends it with everything that it started."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from amidiag.target.inherit import environment

_KEEPER = Path(__file__).with_name("keeper.py")
_START_LIMIT_S = 30.0
_SPOOL = "AMI_WORKER_SPOOL_DIR"


class ProgramError(Exception):
    """The program could not be started, or ended by itself. The text says how, and where its output is."""


class Program:
    """A program with its settings in the environment, and faults armed through the launcher.

    It runs in `directory` (so that no `.env` of the caller is read), in a session of its own (so that
    Ctrl-C reaches the soak first), with its output in `directory/worker.log` and its status page, with
    `traced` its call-site table too, in `directory/run`; results that it must keep go to `directory/spool` unless
    its settings say otherwise. The caller's own `AMI_` variables are left out: a recipe fixes what its point
    depends on.

    Raises:
        ProgramError: it is not found, or cannot be executed.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        settings: Mapping[str, str],
        faults: tuple[str, ...],
        directory: Path,
        *,
        traced: bool = False,
        within: tuple[str, ...] = (),
    ) -> None:
        """`within`: the words of a command that becomes the program, in surroundings of its own."""
        directory = directory.resolve()
        self.log = directory / "worker.log"
        self._fault_report = directory / "faults.json"
        self._fault_report.unlink(missing_ok=True)
        self._said = b""
        self._status: int | None = None
        words = [*within, *self._words(command, faults)]
        env = {k: v for k, v in os.environ.items() if not k.startswith("AMI_")}
        # Results that this worker leaves are none of the host's other workers' business, nor theirs its own.
        env |= {_SPOOL: str(directory / "spool"), **settings}
        env |= {"PYTHONUNBUFFERED": "1", "AMIDIAG_RUNTIME_DIR": str(directory / "run")}
        if traced:
            env = environment(env)
        with self.log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), *words],
                env=env,
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.pid = self._started(command)
        except KeyboardInterrupt:
            self._end_keeper()
            raise

    def _words(self, command: tuple[str, ...], faults: tuple[str, ...]) -> list[str]:
        found = _which(command[0])
        if found is None:
            raise ProgramError(
                f"cannot start {command[0]}: no such program, or not executable; "
                "the worker comes with pip install 'amidiag[worker]'"
            )
        program = [found, *command[1:]]
        if not faults:
            return program
        arm = [word for name in faults for word in ("--arm", name)]
        launcher = [sys.executable, "-m", "amidiag.soak.faults.launcher", *arm]
        return [*launcher, "--report", str(self._fault_report), "--", *program]

    def _started(self, command: tuple[str, ...]) -> int:
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            self._listen(0.5)
            first = self._said.split(b"\n", 1)[0].decode()
            if b"\n" in self._said and first.startswith("pid "):
                return int(first[4:])
            if b"\n" in self._said or self._keeper.poll() is not None:
                self._end_keeper()
                raise ProgramError(f"cannot start {' '.join(command)}: {first.removeprefix('error ')}")
        self._end_keeper()
        raise ProgramError(f"cannot start {' '.join(command)}: nothing happened for {_START_LIMIT_S:.0f} s")

    def _listen(self, seconds: float) -> None:
        """Take in what the keeper says within the time."""
        assert self._keeper.stdout is not None
        if select.select([self._keeper.stdout], [], [], seconds)[0]:
            self._said += os.read(self._keeper.stdout.fileno(), 4096)

    @property
    def exit_status(self) -> int | None:
        """The exit status, negative for a signal, or None while it runs."""
        if self._status is None:
            self._listen(0)
            for line in self._said.decode().splitlines():
                if line.startswith("exit "):
                    self._status = int(line[5:])
        return self._status

    @property
    def faults(self) -> dict[str, str]:
        """What the launcher says of each fault: armed, or not needed on this host. Empty before it said so."""
        try:
            report: dict[str, str] = json.loads(self._fault_report.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return report

    def last_words(self) -> str:
        """The last line of its output that is not empty; of a traceback that is the error."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self, patience: float = 20.0) -> int:
        """End it: SIGTERM, SIGKILL after `patience` seconds, then whatever it had started. Its exit status."""
        if self.exit_status is None:
            self._order(b"term\n")
            deadline = time.monotonic() + patience
            while self.exit_status is None and time.monotonic() < deadline:
                self._listen(max(0.0, min(0.5, deadline - time.monotonic())))
        if self.exit_status is None:
            self._order(b"kill\n")
            while self.exit_status is None and self._keeper.poll() is None:
                self._listen(0.5)
        self._end_keeper()
        # A keeper that was itself killed could not say.
        return -9 if self._status is None else self._status

    def _order(self, line: bytes) -> None:
        assert self._keeper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(line)
            self._keeper.stdin.flush()

    def _end_keeper(self) -> None:
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self._keeper.wait()

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._keeper.returncode is None:
            self.stop(patience=20.0 if kind is None else 3.0)


def _which(name: str) -> str | None:
    if os.sep in name:
        return str(Path(name).resolve()) if shutil.which(name) else None
    # The worker that was installed with this amidiag comes first, whether or not the venv is activated.
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.is_file() else shutil.which(name)
