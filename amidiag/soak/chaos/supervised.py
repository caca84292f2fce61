"""A worker that is started again when it ends, as systemd or supervisor would, and keeps a record of its lives."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.processes import ProcStat
from amidiag.procfs.tree import read_tree
from amidiag.soak.program import Program, ProgramError

LOADER_NAME = "pt_data_worker"
"""The name of a loader process's main thread (torch/utils/data/_utils/worker.py)."""

# EX_NOPERM and EX_CONFIG of sysexits.h: a new process would end in the same way.
_FINAL = (77, 78)
_PAUSE_S = 0.5
# Longer than AMI_WORKER_DRAIN_LIMIT_S with the rest of an ending.
_PATIENCE_S = 90.0


@dataclass
class Life:
    """One process of the worker. Times are monotonic; `status` is None while it lives, negative for a signal."""

    program: Program
    began: float
    ended: float | None = None
    status: int | None = None


class Supervised:
    """`tick` it often: it notices an end and starts the next life. A context manager.

    Each life has a directory of its own below `directory`, for its log; what outlives it is in the settings.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        faults: tuple[str, ...],
        directory: Path,
        *,
        within: tuple[str, ...] = (),
    ) -> None:
        self.spool = directory / "spool"
        # What a killed process leaves of multiprocessing's sockets goes with us. A short path: theirs have 108 bytes.
        self._temporary = tempfile.mkdtemp(prefix="chaos-")
        self._settings = {"AMI_WORKER_SPOOL_DIR": str(self.spool), "TMPDIR": self._temporary, **settings}
        self._faults = faults
        self._directory = directory
        self._within = within
        self.lives: list[Life] = []
        try:
            self._start()
        except BaseException:
            shutil.rmtree(self._temporary)
            raise

    def __enter__(self) -> Supervised:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(_PATIENCE_S if kind is None else 3.0)

    @property
    def pid(self) -> int:
        """Of the life that is, or was last."""
        return self.lives[-1].program.pid

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self.lives[-1].status is None and self.lives[-1].program.exit_status is None

    def tick(self) -> None:
        """Look whether it has ended, and start it again once its pause is over.

        Raises:
            ProgramError: it ended in a way after which no supervisor would start it again.
        """
        life = self.lives[-1]
        if life.status is None:
            life.status = life.program.exit_status
            if life.status is None:
                return
            life.ended = time.monotonic()
            life.program.stop()
            if life.status in _FINAL:
                raise ProgramError(f"the worker ended with {life.status}: {life.program.last_words()}")
        assert life.ended is not None
        if time.monotonic() - life.ended >= _PAUSE_S:
            self._start()

    def stop(self, patience: float = _PATIENCE_S) -> int:
        """End it for good: SIGTERM, SIGKILL after `patience` seconds. Its exit status."""
        life = self.lives[-1]
        if life.status is None:
            life.status = life.program.stop(patience)
            life.ended = time.monotonic()
        shutil.rmtree(self._temporary, ignore_errors=True)
        return life.status

    def tree(self) -> list[ProcStat]:
        """The worker and all its descendants; empty where it has ended."""
        try:
            return read_tree(identify(self.pid))
        except ProcessGone:
            return []

    def loaders(self) -> list[int]:
        """The PIDs of its loader processes that live."""
        return [stat.pid for stat in self.tree() if stat.name == LOADER_NAME and not stat.ended]

    def log_since(self, mark: Mapping[Path, int]) -> list[str]:
        """What its lives have written since `mark_log`."""
        lines: list[str] = []
        for life in self.lives:
            log = life.program.log
            with log.open("rb") as file:
                file.seek(mark.get(log, 0))
                lines += file.read().decode(errors="replace").splitlines()
        return lines

    def mark_log(self) -> dict[Path, int]:
        """How far each log is now."""
        return {life.program.log: life.program.log.stat().st_size for life in self.lives}

    def _start(self) -> None:
        directory = self._directory / f"life-{len(self.lives) + 1:03}"
        directory.mkdir(parents=True)
        program = Program(
            ("ami", "worker", "run"), self._settings, self._faults, directory, within=self._within
        )
        self.lives.append(Life(program, time.monotonic()))
