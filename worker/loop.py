"""The worker's loop: poll, job, batch, post."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from amidiag.target.status_page import StatusPage
from worker.answers import answer
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal, describe
from worker.antenna.posting import ResultPoster
from worker.antenna.schemas import AntennaError, BadAnswerError, Job, UnauthorizedError, UnavailableError
from worker.draining import Drain, StopWaiting
from worker.ingest.batch import Batch
from worker.ingest.loader import JobLoader, LoaderError
from worker.ingest.reservation import TaskSampler
from worker.pipelines import Pipeline
from worker.reach import Reach, UnreachableError
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """What one visit to a job came to. Times in seconds."""

    images: int = 0
    errors: int = 0
    waiting: float = 0.0


class Worker:
    """One worker process: takes jobs for `slugs` until it is told to drain.

    `load` makes a pipeline from its slug; each is made when it first has an image, and kept.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        client: AntennaClient,
        page: StatusPage,
        drain: Drain,
        slugs: Sequence[str],
        load: Callable[[str], Pipeline],
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._client = client
        self._page = page
        self._drain = drain
        self._slugs = tuple(slugs)
        self._load = load
        self._device = device
        self._pipelines: dict[str, Pipeline] = {}
        self._journal = Journal()
        self._reach = Reach(settings.antenna_unreachable_limit_s)
        self._poster = ResultPoster(
            client,
            self._journal,
            max_pending=settings.antenna_max_pending_posts,
            give_up_after_s=settings.antenna_unreachable_limit_s,
            accepted=lambda: page.count("posts"),
        )

    def run(self, max_polls: int | None = None) -> None:
        """Work until told to drain, or for `max_polls` polls.

        Raises:
            UnauthorizedError: the server refused this worker.
            UnreachableError, UnavailableError: it gave no usable answer for too long, or not on the last
                poll of `max_polls`.
        """
        polls = 0
        try:
            while not self._drain.requested and polls != max_polls:
                worked = self._poll()
                polls += 1
                if not worked and polls != max_polls:
                    self._rest()
            if self._reach.failing and not self._drain.requested:
                raise self._reach.unreachable()
        except (AntennaError, UnreachableError):
            raise
        except Exception:
            # The work that is done is posted, whatever ended the rest of it.
            with suppress(AntennaError):
                self._poster.drain()
            raise
        finally:
            self._poster.close()

    def _poll(self) -> bool:
        """Ask for jobs and visit each. Returns whether one of them handed out a task."""
        self._page.state("polling")
        self._page.count("polls")
        try:
            with self._drain.interruptible():
                jobs = self._client.jobs(self._slugs)
        except StopWaiting:
            return False
        except (UnavailableError, BadAnswerError) as e:
            self._reach.failed(e)
            return False
        self._reach.answered()
        worked = False
        for job in jobs:
            if self._drain.requested:
                break
            worked |= self._visit(job)
        return worked

    def _rest(self) -> None:
        self._page.state("idle")
        self._drain.sleep(self._reach.pause(self._settings.antenna_idle_sleep_seconds))

    def _visit(self, job: Job) -> bool:
        """Work on a job until it hands out nothing more. Returns whether it went as it should, with tasks."""
        if job.pipeline_slug not in self._slugs:
            log.warning("job %s is for the pipeline %s: not ours, skipped", job.id, job.pipeline_slug)
            return False
        self._page.state("job")
        started, tally, failed = time.monotonic(), Tally(), False
        sampler = TaskSampler(
            self._client,
            self._journal,
            job_id=job.id,
            batch_size=self._settings.antenna_api_batch_size,
            stopping=lambda: self._drain.requested,
            first_task=lambda: self._page.count("jobs"),
        )
        try:
            with JobLoader(self._settings, sampler) as loader:
                self._page.count("loaders")
                self._work(job, loader, tally)
        except LoaderError as e:
            failed = True
            log.error("job %s: the loader failed: %s", job.id, e)
        self._finish(job, sampler, tally, time.monotonic() - started)
        return sampler.reserved > 0 and not failed and sampler.error is None

    def _work(self, job: Job, loader: JobLoader, tally: Tally) -> None:
        while True:
            waiting = time.monotonic()
            try:
                with self._drain.interruptible():
                    batch = loader.next()
            except StopWaiting:
                return
            tally.waiting += time.monotonic() - waiting
            if batch is None:
                return
            self._page.state("batch")
            self._process(job, batch, tally)
            self._page.state("job")
            # Not kept while the next one is waited for.
            del batch

    def _process(self, job: Job, batch: Batch, tally: Tally) -> None:
        for failure in batch.failures:
            log.warning(
                "job %s: image %s is answered as an error: %s", job.id, failure.task.image_id, failure.error
            )
        answers = answer(batch, lambda: self._pipeline(job.pipeline_slug), self._device)
        self._page.count("batches")
        self._page.count("images", len(answers))
        tally.images += len(answers)
        tally.errors += sum("error" in a.result for a in answers)
        self._poster.submit(job.id, answers)

    def _pipeline(self, slug: str) -> Pipeline:
        if slug not in self._pipelines:
            self._pipelines[slug] = self._load(slug)
        return self._pipelines[slug]

    def _finish(self, job: Job, sampler: TaskSampler, tally: Tally, seconds: float) -> None:
        """Wait until every result is in, and say what became of the job."""
        self._page.state("draining" if self._drain.requested else "posting")
        self._poster.drain()
        left = self._journal.release(job.id)
        if left:
            log.warning("job %s: %s left to the server's redelivery", job.id, describe(left))
        if isinstance(sampler.error, UnauthorizedError):
            raise sampler.error
        if sampler.error is not None:
            log.warning("job %s: no more tasks could be taken: %s", job.id, sampler.error)
        log.log(
            logging.INFO if sampler.reserved else logging.DEBUG,
            "job %s (%s): %s images answered, %s of them as errors, %s batches, %.2f s, %.2f s of it waiting "
            "for images",
            job.id,
            job.pipeline_slug,
            tally.images,
            tally.errors,
            sampler.batches,
            seconds,
            tally.waiting,
        )
