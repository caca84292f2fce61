"""When a worker is to be replaced by a new process: FDs, memory, age, jobs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from worker.guard.family import Family
from worker.guard.fd_cap import FdCap
from worker.guard.memory_cap import MemoryCap
from worker.settings import WorkerSettings, env_name

log = logging.getLogger(__name__)

_FDS, _MEMORY = env_name("worker_max_fds_percent"), env_name("worker_max_memory")


class Recycler:
    """Compares what the worker with its loader processes uses to the caps of the settings.

    A cap that is passed before there was any work would be passed by the next process too: it says so once,
    and lets the worker answer a batch before it is replaced. A worker that could do nothing else than be
    replaced would be dark.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._started = time.monotonic()
        family = Family()
        self._fds = FdCap(settings.worker_max_fds_percent, family)
        self._memory = MemoryCap(settings, family)
        self._batches = 0
        # Settings: what they cap the next process would pass as well, before there was any work.
        self._not_before_work: set[str] = set()
        for name, figures in self._passed(0):
            if name not in (_FDS, _MEMORY):
                # The next process begins anew with these; a small age may have passed by now on a busy machine.
                continue
            self._not_before_work.add(name)
            log.warning(
                "%s is passed before any work is done: %s; each process will be replaced after its first batch",
                name,
                figures,
            )

    @property
    def why(self) -> str:
        """The caps, in one line for the log."""
        settings = self._settings
        age, jobs = settings.worker_max_age_s, settings.worker_max_jobs
        caps = [
            self._fds.why,
            self._memory.why,
            *([f"{age:g} s"] if age else []),
            *([f"{jobs} jobs"] if jobs else []),
        ]
        return ", ".join(filter(None, caps)) or "nothing"

    def worked(self) -> None:
        """A batch was worked on."""
        self._batches += 1

    def failed(self) -> None:
        """A visit to a job has brought no batch for want of something: the next process would want it too."""
        self._not_before_work |= {_FDS, _MEMORY}

    def due(self, jobs: int) -> str | None:
        """Which cap is passed, with the figures, in one line; None as long as none is. `jobs`: worked on so far.

        Cheap enough to be asked between any two batches and at every poll.
        """
        for name, figures in self._passed(jobs):
            if self._batches or name not in self._not_before_work:
                return f"{figures}: {name}{self._remark(name)}"
        return None

    def _remark(self, name: str) -> str:
        early = self._batches == 1 and name in (_FDS, _MEMORY)
        return " (after the first batch already: is it set too low?)" if early else ""

    def _passed(self, jobs: int) -> Iterator[tuple[str, str]]:
        """Setting and figures of each cap that is passed now, the cheap ones first."""
        settings = self._settings
        if 0 < settings.worker_max_jobs <= jobs:
            yield env_name("worker_max_jobs"), f"{jobs} of {settings.worker_max_jobs} jobs"
        age = time.monotonic() - self._started
        if 0 < settings.worker_max_age_s <= age:
            yield env_name("worker_max_age_s"), f"{age:.0f} of {settings.worker_max_age_s:g} s of age"
        figures = self._fds.passed()
        if figures is not None:
            yield _FDS, figures
        figures = self._memory.passed()
        if figures is not None:
            yield _MEMORY, figures
