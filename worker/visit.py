"""One visit to a job: its tasks loaded, worked on and handed over for posting, until it gives no more."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch

from worker.draining import Drain, StopWaiting
from worker.guard.tuner import JobTuner
from worker.guard.usage import own_usage
from worker.guard.watchdog import Watchdog
from worker.ingest.batch import Batch, Failure, LoaderReport
from worker.ingest.loader import Loader, LoaderError
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource
from worker.pipelines.device import device_error

log = logging.getLogger(__name__)

# So often in a row, without a batch between, a loader may fail: a task that kills it is found by then.
_FAILURES = 4
_PAUSE_S = 0.5
_OF_OTHERS = ("ENOSPC", "ENOMEM")
# After so many batches it is asked what the worker really uses.
_LOOK_EVERY = 8


@dataclass(slots=True)
class Tally:
    """What one visit to a job came to. Times in seconds."""

    images: int = 0
    errors: int = 0
    batches: int = 0
    waiting: float = 0.0
    failed: bool = False
    # What the worker had run out of when its loader failed last.
    exhausted: str | None = None


class Visit:
    """Drives a loader through one job. `process` works on a batch and returns (images, errors)."""

    def __init__(
        self,
        source: JobSource,
        loader: Loader,
        *,
        job_id: int,
        tuner: JobTuner,
        pace: Pace,
        drain: Drain,
        process: Callable[[Batch], tuple[int, int]],
        watchdog: Watchdog,
        measure: bool,
    ) -> None:
        """`measure`: look at what the worker really uses, for the sake of a memory budget."""
        self._source = source
        self._loader = loader
        self._job_id = job_id
        self._tuner = tuner
        self._pace = pace
        self._drain = drain
        self._process = process
        self._watchdog = watchdog
        self._measure = measure
        self.tally = Tally()
        # Batches that came from the loader: what is given up is none.
        self._arrived = 0

    def run(self) -> Tally:
        """Work until there is nothing more, or to drain. What the loader does is no error of ours."""
        failures, before = 0, 0
        while failures < _FAILURES:
            try:
                self._watchdog.at(f"starting loader processes for job {self._job_id}")
                self._loader.begin(self._source)
                self._work()
            except LoaderError as e:
                failures = failures + 1 if self._arrived == before else 1
                before = self._arrived
                self._take_back(e)
                self._pause(failures)
            else:
                return self.tally
            if self._drain.requested:
                break
        self.tally.failed = True
        return self.tally

    def _pause(self, failures: int) -> None:
        """Before the loader is built again. What others have filled, as /dev/shm, is often there again after seconds;
        what this process itself has run out of is not."""
        of_others = (self.tally.exhausted or "").startswith(_OF_OTHERS)
        if failures < _FAILURES:
            self._drain.sleep(_PAUSE_S * (2**failures if of_others else failures - 1))

    def _work(self) -> None:
        mark = time.monotonic()
        while (batch := self._next()) is not None:
            began = time.monotonic()
            self._source.arrived(batch)
            self._arrived += 1
            # Before the work on this one, so that the loader is at work meanwhile.
            with suppress(StopWaiting):
                self._loader.ask()
            self._count(batch)
            self._source.worked()
            done = time.monotonic()
            self._tuner.worked(len(batch.tasks), done - began)
            self._pace.finished(len(batch.tasks), done - mark)
            mark = done
            # Not kept while the next one is waited for.
            del batch
            if self._measure and self.tally.batches % _LOOK_EVERY == 0:
                self._look()

    def _look(self) -> None:
        """See what the worker really uses. At EMFILE, for one, it cannot be told."""
        usage = own_usage(os.getpid())
        if usage is not None:
            self._tuner.throttle(usage.total)

    def _next(self) -> Batch | None:
        """The next batch; None when there is none, or to drain."""
        waiting = time.monotonic()
        try:
            self._watchdog.at(f"asking for tasks of job {self._job_id}")
            self._loader.ask()
            longest = self._loader.longest_wait_s + self._watchdog.limit_s
            self._watchdog.at(f"waiting for images of job {self._job_id}", longest)
            return self._loader.wait(self._drain.interruptible())
        except StopWaiting:
            return None
        finally:
            self._watchdog.at(f"job {self._job_id}")
            self.tally.waiting += time.monotonic() - waiting

    def _count(self, batch: Batch) -> None:
        images, errors = self._process(batch)
        self.tally.images += images
        self.tally.errors += errors
        self.tally.batches += 1

    def _take_back(self, error: LoaderError) -> None:
        """The loader is gone: what it held is loaded again, answered as an error, or left to redelivery.

        Raises:
            DeviceError: a loader cannot help, since the device does not work any more.
        """
        of_device = device_error(error.__cause__) if error.__cause__ is not None else None
        if of_device is not None:
            raise of_device from error
        self.tally.exhausted = error.exhausted
        held = self._source.in_flight
        given_up = self._source.loader_died(error.suspect)
        again = f"; {held - len(given_up)} tasks of it are loaded again" if held else ""
        log.error("job %s: the loader failed: %s%s", self._job_id, error, again)
        late = self._source.leave_overdue()
        if late:
            are = "task is" if late == 1 else "tasks are"
            log.warning("job %s: %s %s too late: left to the server's redelivery", self._job_id, late, are)
        if given_up:
            text = "failed to load image: the loader failed with it twice, alone"
            failures = tuple(Failure(task, text) for task in given_up)
            self._count(Batch(torch.empty(0, dtype=torch.uint8), (), (), (), failures, (), LoaderReport(0)))
