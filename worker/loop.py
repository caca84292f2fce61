"""The worker's loop: poll, job, batch, post."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from amidiag.target.status_page import StatusPage
from worker.answers import answer
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal, describe
from worker.antenna.posting import ResultPoster
from worker.antenna.schemas import AntennaError, BadAnswerError, Job, UnauthorizedError, UnavailableError
from worker.antenna.spool import Spool
from worker.cache_report import CacheReport
from worker.draining import Drain, StopWaiting
from worker.exhaustion import ExhaustedError, behind
from worker.guard.budget import Budget
from worker.guard.fd_reserve import FdReserve
from worker.guard.footprint import Footprint
from worker.guard.recycle import Recycler
from worker.guard.throttle import HIGH
from worker.guard.tuner import JobTuner, Tuning
from worker.guard.usage import own_usage
from worker.guard.watchdog import Watchdog
from worker.guard.words import size_in_words
from worker.ingest.batch import Batch
from worker.ingest.limits import ImageLimits
from worker.ingest.loader import Loader, LoaderError, serves_many_jobs
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource
from worker.ingest.staging import Stager, StagingError
from worker.pipelines import Pipeline
from worker.pipelines.passes import PassSizes
from worker.reach import UnreachableError
from worker.setbacks import RESULTS_NOT_TAKEN, Setbacks
from worker.settings import Problem, SettingsError, WorkerSettings, allowed, env_name, fields
from worker.visit import Tally, Visit

log = logging.getLogger(__name__)

# Their files may have to come over a network first.
MODELS_LIMIT_S = 600.0


class Worker:
    """One worker process: takes jobs for `slugs` until it is told to drain.

    `load` gives a pipeline by its slug when it has an image, and decides how long it stays in memory.

    Raises:
        SettingsError: the directory for staging cannot be used.
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
        watchdog: Watchdog,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`say`: one line on what it does now, for whoever watches the service."""
        self._settings = settings
        self._watchdog = watchdog
        self._say = say
        self._client = client
        self._page = page
        self._drain = drain
        self._slugs = tuple(slugs)
        self._load = load
        self._device = device
        self._pass_sizes = PassSizes()
        # The public worker does not ask whether a task has been answered.
        self._journal = Journal(settings.visibility_timeout_s / 2 or math.inf)
        self._budget = Budget.of(settings)
        log.info("%s", self._budget.why)
        self._tuning = Tuning(settings, self._budget)
        self._pace = Pace(settings.visibility_timeout_s)
        self._stager = _stager_for(settings)
        self._caches = CacheReport(page, drains=settings.cache_drain)
        # Of many jobs; None where each job has its own.
        self._loader = self._new_loader() if serves_many_jobs(settings) else None
        self._reserve = FdReserve()
        self._setbacks = Setbacks(settings, page, self._reserve)
        self._recycler = Recycler(settings)
        log.info("a new process takes over at: %s", self._recycler.why)
        self._recycle: str | None = None
        self._jobs = 0
        self._said_idle_at = -1
        self._footprint = Footprint()
        spool = Spool.of(settings)
        is_missed = settings.worker_spool_dir and spool.directory is None
        log.log(
            logging.WARNING if is_missed else logging.INFO, "%s (%s)", spool.why, env_name("worker_spool_dir")
        )
        self.spool_directory = spool.directory
        self._poster = ResultPoster(
            client,
            self._journal,
            max_pending=settings.antenna_max_pending_posts,
            give_up_after_s=settings.antenna_unreachable_limit_s,
            accepted=lambda: page.count("posts"),
            spool=spool,
            hurry=lambda: drain.requested,
            hurry_s=settings.worker_drain_limit_s,
        )

    def run(self, max_polls: int | None = None) -> str | None:
        """Work until told to drain, until a new process is wanted, or for `max_polls` polls.

        Returns why a new process is wanted; None where it is not.

        Raises:
            UnauthorizedError: the server refused this worker.
            UnreachableError, UnavailableError: it gave no usable answer for too long, or not on the last
                poll of `max_polls`.
            ExhaustedError: FDs, memory or disk have run out and did not come back.
        """
        polls = 0
        try:
            self._post_left()
            while not self._ending and polls != max_polls:
                worked = self._poll()
                polls += 1
                if not worked and polls != max_polls and not self._recycle_due():
                    self._rest()
            if not self._ending:
                self._setbacks.raise_last()
        except AntennaError as e:
            missing = behind(e)
            if missing is not None:
                raise ExhaustedError(f"{missing}, when posting results: {e}") from e
            raise
        except UnreachableError:
            raise
        except Exception:
            # The work that is done is posted, whatever ended the rest of it.
            with suppress(AntennaError):
                self._drain_posts(hurried=True)
            raise
        finally:
            self._close()
        return self._recycle

    def keep(self) -> None:
        """Put the results that are not yet with the server on disk; for a worker that hangs, from any thread."""
        self._reserve.release()
        self._poster.keep()

    @property
    def _ending(self) -> bool:
        return self._drain.requested or self._recycle is not None

    def _recycle_due(self) -> bool:
        """Whether a cap is passed: then no more tasks are taken, and those in hand are finished."""
        if self._recycle is None:
            self._recycle = self._recycler.due(self._jobs)
            if self._recycle is not None:
                log.warning("a new process is wanted: %s; the work in hand is finished first", self._recycle)
        return self._recycle is not None

    def _post_left(self) -> None:
        left = self._poster.take_left()
        if left:
            self._page.state("posting")
            log.info("the results of %s tasks were left by an earlier worker: they are posted first", left)
            self._drain_posts()

    def _drain_posts(self, *, hurried: bool = False) -> None:
        taken = -1

        def look() -> None:
            nonlocal taken
            # However many there are to post: each that is taken is a sign of life.
            if self._poster.taken != taken:
                taken = self._poster.taken
                self._at_posting()
            if self._poster.failing:
                self._page.health(False, RESULTS_NOT_TAKEN)

        look()
        self._poster.drain(hurried=hurried, look=look)

    def _at_posting(self) -> None:
        limit_s = self._settings.antenna_unreachable_limit_s + self._settings.watchdog_s
        self._watchdog.at("posting results", limit_s)

    def _close(self) -> None:
        self._watchdog.at("ending")
        self._poster.close()
        if self._loader is not None:
            self._loader.close()
        if self._stager is not None:
            self._stager.close()
        self._reserve.release()

    def _poll(self) -> bool:
        """Ask for jobs and visit each. Returns whether one of them handed out a task."""
        self._page.state("polling")
        self._page.count("polls")
        self._watchdog.at("asking for jobs")
        try:
            with self._drain.interruptible():
                jobs = self._client.jobs(self._slugs)
        except StopWaiting:
            return False
        except (UnavailableError, BadAnswerError) as e:
            self._say(f"no usable answer to a poll: {e}")
            self._setbacks.poll_failed(e)
            return False
        self._setbacks.poll_answered(jobs=bool(jobs))
        self._setbacks.show(results_not_taken=self._poster.failing)
        worked = False
        for job in jobs:
            if self._ending:
                break
            worked |= self._visit(job)
        return worked

    def _rest(self) -> None:
        self._page.state("idle")
        if self._setbacks.at_work:
            if self._said_idle_at != self._jobs:
                log.info("the server has no task now, %s jobs done: waiting for the next", self._jobs)
            self._said_idle_at = self._jobs
            self._say(f"waiting for jobs; {self._jobs} done")
        seconds = self._setbacks.pause(self._settings.antenna_idle_sleep_seconds)
        self._watchdog.at("resting", seconds + self._settings.watchdog_s)
        self._drain.sleep(seconds)

    def _visit(self, job: Job) -> bool:
        """Work on a job until it hands out nothing more. Returns whether it went as it should, with tasks."""
        if job.pipeline_slug not in self._slugs:
            log.warning("job %s is for the pipeline %s: not ours, skipped", job.id, job.pipeline_slug)
            return False
        self._page.state("job")
        self._watchdog.at(f"job {job.id}")
        started = time.monotonic()
        tuner = self._tuning.for_job(job.id, job.pipeline_slug)
        source = self._source(job, tuner)
        # None is built for a job without tasks, unless each job is to have its own.
        if self._loader is None:
            with self._new_loader() as loader:
                tally = self._visit_with(job, source, tuner, loader)
        elif self._looked(source):
            tally = self._visit_with(job, source, tuner, self._loader)
        else:
            tally = Tally()
        self._finish(job, source, tally, time.monotonic() - started)
        self._setbacks.visited(tally)
        if tally.batches:
            log.info("job %s: the next will be loaded in %s", job.id, tuner.why())
        return source.reserved > 0 and not tally.failed and source.error is None

    @staticmethod
    def _looked(source: JobSource) -> bool:
        try:
            return source.look()
        except StopWaiting:
            return False

    def _source(self, job: Job, tuner: JobTuner) -> JobSource:
        return JobSource(
            self._client,
            self._journal,
            tuner,
            self._pace,
            job_id=job.id,
            drain=self._drain,
            first_task=lambda: self._began(job),
            stager=self._stager,
            hold=self._takes_no_more,
            asking=lambda: self._watchdog.at(f"asking for tasks of job {job.id}"),
        )

    def _takes_no_more(self) -> bool:
        return self._recycle is not None or self._poster.failing

    def _began(self, job: Job) -> None:
        self._page.count("jobs")
        self._say(f"job {job.id} ({job.pipeline_slug})")

    def _new_loader(self) -> Loader:
        return Loader(self._settings, built=lambda: self._page.count("loaders"))

    def _visit_with(self, job: Job, source: JobSource, tuner: JobTuner, loader: Loader) -> Tally:
        visit = Visit(
            source,
            loader,
            job_id=job.id,
            tuner=tuner,
            pace=self._pace,
            drain=self._drain,
            process=lambda batch: self._process(job, batch),
            watchdog=self._watchdog,
            measure=self._budget.bytes is not None,
        )
        tally = visit.run()
        if tally.failed and tally.exhausted is not None:
            self._recycler.failed()
        if not self._drain.requested:
            self._watchdog.at(f"caches of job {job.id}", loader.longest_wait_s + self._settings.watchdog_s)
            try:
                self._caches.end_of_job(job.id, loader)
            except LoaderError as e:
                log.warning("job %s: the caches of the loader could not be emptied: %s", job.id, e)
            self._watchdog.at(f"job {job.id}")
            self._give_back(loader)
        return tally

    def _give_back(self, loader: Loader) -> None:
        """End a loader whose processes keep so much that batches are held back though nothing is in flight."""
        budget = self._budget.bytes
        if budget is None or not self._tuning.held_back:
            return
        usage = own_usage(os.getpid())
        if usage is not None and usage.total >= HIGH * budget:
            log.info(
                "%s of %s in use between two jobs: the loader is ended, and built anew when there is a task",
                size_in_words(usage.total),
                size_in_words(budget),
            )
            loader.close()

    def _process(self, job: Job, batch: Batch) -> tuple[int, int]:
        """Answer a batch. Returns how many images that were, and how many of them errors."""
        self._page.state("batch")
        self._watchdog.at(f"a batch of job {job.id}")
        for failure in batch.failures:
            log.warning(
                "job %s: image %s is answered as an error: %s", job.id, failure.task.image_id, failure.error
            )
        answers = answer(batch, lambda: self._pipeline(job), self._device, self._pass_sizes)
        self._page.count("batches")
        self._page.count("images", len(answers))
        self._caches.seen(batch.report)
        if self._stager is not None:
            self._stager.done(job.id, [*batch.tasks, *(f.task for f in batch.failures)])
        self._at_posting()
        self._poster.submit(job.id, answers)
        self._recycler.worked()
        self._recycle_due()
        self._page.state("job")
        self._watchdog.at(f"job {job.id}")
        return len(answers), sum("error" in a.result for a in answers)

    def _pipeline(self, job: Job) -> Pipeline:
        self._watchdog.at("loading models", MODELS_LIMIT_S + self._settings.watchdog_s)
        pipeline = self._load(job.pipeline_slug)
        self._watchdog.at(f"a batch of job {job.id}")
        return pipeline

    def _finish(self, job: Job, source: JobSource, tally: Tally, seconds: float) -> None:
        """Wait until every result is in, and say what became of the job."""
        self._page.state("draining" if self._drain.requested else "posting")
        self._drain_posts()
        self._jobs += source.reserved > 0
        left = self._journal.release(job.id)
        if self._stager is not None:
            self._stager.job_ended(job.id)
        if left:
            log.warning("job %s: %s left to the server's redelivery", job.id, describe(left))
        if isinstance(source.error, UnauthorizedError):
            raise source.error
        log.log(
            logging.INFO if source.reserved else logging.DEBUG,
            "job %s (%s): %s images answered, %s of them as errors, %s batches, %.2f s, %.2f s of it waiting "
            "for images",
            job.id,
            job.pipeline_slug,
            tally.images,
            tally.errors,
            tally.batches,
            seconds,
            tally.waiting,
            extra={"job": _as_fields(job, tally, seconds)},
        )
        if source.reserved:
            used = self._footprint.after_job()
            log.info("job %s: %s", job.id, used.line, extra={"job": {"id": job.id}, "uses": used.fields})
        self._recycle_due()
        self._look_at_tasks(source)

    def _look_at_tasks(self, source: JobSource) -> None:
        if source.reserved or (source.error is None and not self._takes_no_more()):
            self._setbacks.tasks_taken()
        if source.error is not None:
            self._setbacks.tasks_refused(source.error)


def _as_fields(job: Job, tally: Tally, seconds: float) -> dict[str, object]:
    """For a structured log."""
    return {
        "id": job.id,
        "pipeline": job.pipeline_slug,
        "images": tally.images,
        "errors": tally.errors,
        "batches": tally.batches,
        "seconds": round(seconds, 3),
        "waiting_s": round(tally.waiting, 3),
    }


def _stager_for(settings: WorkerSettings) -> Stager | None:
    if not settings.staging_dir:
        return None
    try:
        return Stager(
            Path(settings.staging_dir),
            max_bytes=settings.staging_max_bytes,
            limits=ImageLimits.of(settings),
            threads=settings.antenna_api_dataloader_download_threads,
        )
    except StagingError as e:
        name = env_name("staging_dir")
        problem = Problem(name, settings.staging_dir, allowed(fields()[name]), str(e))
        raise SettingsError([problem]) from None
