"""A few real tasks, worked on and answered exactly as the worker does, with a clock beside it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from amidiag.model import TuneSample
from worker import service
from worker.answers import answer
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal, describe
from worker.antenna.posting import ResultPoster
from worker.antenna.schemas import Job, Task
from worker.draining import Drain, StopWaiting
from worker.guard.budget import Budget
from worker.guard.peak import Peak, private_memory
from worker.guard.tuner import Tuning
from worker.guard.watchdog import Watchdog
from worker.ingest.batch import Batch
from worker.ingest.loader import Loader
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource
from worker.pipelines import Pipeline
from worker.pipelines.passes import PassSizes
from worker.pipelines.shelf import chosen_pipelines
from worker.pipelines.spec import PipelineSpec
from worker.settings import Problem, SettingsError, WorkerSettings
from worker.visit import Visit

log = logging.getLogger(__name__)

# The server lists one job at a time, in no order.
POLLS = 8


class NoSampleError(Exception):
    """There was no task to work on, or no image came of it; the text says which."""


class FewTasks(AntennaClient):
    """A client that takes no more than `most` tasks."""

    def __init__(self, base_url: str, token: str, most: int) -> None:
        super().__init__(base_url, token)
        self.left = most

    def reserve(self, job_id: int, count: int) -> list[Task]:
        """As ever, up to what is left."""
        if self.left < 1:
            return []
        tasks = super().reserve(job_id, min(count, self.left))
        self.left -= len(tasks)
        return tasks


@dataclass(frozen=True, slots=True)
class _Timed:
    """One batch: its images, and what each part of the work on it took, in seconds."""

    images: int
    download_s: float
    decode_s: float
    inference_s: float
    work_bytes: int


@dataclass(slots=True)
class _Seen:
    batches: list[_Timed] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    file_bytes: int = 0
    files: int = 0
    errors: int = 0


class Sampler:
    """Takes a sample. Use as a context manager: at its end everything that was answered is with the server.

    Raises, besides what each method says, AntennaError where a call fails.
    """

    def __init__(self, settings: WorkerSettings, tasks: int) -> None:
        # In this process, so that nothing waits for a loader process: each part has the machine for itself.
        # Two batches: in the first everything is done for the first time.
        self._settings = settings.model_copy(
            update={
                "num_workers": 0,
                "antenna_api_batch_size": max(1, tasks // 2),
                "autotune": False,
                "staging_dir": "",
                "antenna_api_dataloader_pin_memory": False,
            }
        )
        self._client = FewTasks(
            settings.antenna_api_base_url, settings.antenna_api_auth_token.get_secret_value(), tasks
        )
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._drain = Drain()
        self._journal = Journal()
        self._poster = ResultPoster(
            self._client,
            self._journal,
            max_pending=settings.antenna_max_pending_posts,
            give_up_after_s=min(60.0, settings.antenna_unreachable_limit_s),
            accepted=lambda: None,
        )
        self._pipelines: dict[str, Pipeline] = {}
        self._own = 0

    def __enter__(self) -> Sampler:
        self._drain.install()
        return self

    def __exit__(self, *exc: object) -> None:
        self._poster.close()
        self._client.close()
        self._drain.uninstall()

    def take(self, job_id: int | None, slug: str | None) -> TuneSample:
        """Work on tasks of one job, and post the results.

        Raises:
            NoSampleError: there is none.
            SettingsError: this worker does not have the pipeline.
        """
        specs = chosen(self._settings, slug)
        tried: set[int] = set()
        for job in self._jobs(job_id, slug, tuple(specs)):
            if job.id in tried or self._drain.requested:
                continue
            tried.add(job.id)
            sample = self._visit(job, specs[job.pipeline_slug])
            if sample is not None:
                return sample
        if self._drain.requested:
            raise NoSampleError("told to end before there was a sample")
        where = f"job {job_id}" if job_id is not None else f"jobs of {', '.join(specs)}"
        if job_id is not None and not tried:
            raise NoSampleError(f"the server does not list {where}; name its pipeline as well: --pipeline")
        raise NoSampleError(f"no task to sample: {where} handed none out")

    def _jobs(self, job_id: int | None, slug: str | None, slugs: Sequence[str]) -> Iterator[Job]:
        if job_id is not None and slug is not None:
            yield Job(job_id, slug)
            return
        for _ in range(POLLS):
            try:
                with self._drain.interruptible():
                    jobs = self._client.jobs(slugs)
            except StopWaiting:
                return
            yield from (j for j in jobs if j.pipeline_slug in slugs and job_id in (None, j.id))

    def _visit(self, job: Job, spec: PipelineSpec) -> TuneSample | None:
        """One visit as the worker's own; None where the job hands nothing out."""
        # Before tasks are taken: the time they may take has begun then.
        pipeline = self._pipeline(spec)
        tuner = Tuning(self._settings, Budget.of(self._settings), pinned=False).for_job(job.id, spec.slug)
        pace = Pace(self._settings.visibility_timeout_s)
        source = JobSource(
            self._client,
            self._journal,
            tuner,
            pace,
            job_id=job.id,
            drain=self._drain,
            first_task=lambda: None,
        )
        seen = _Seen()
        with Loader(self._settings) as loader:
            visit = Visit(
                source,
                loader,
                job_id=job.id,
                tuner=tuner,
                pace=pace,
                drain=self._drain,
                process=lambda batch: self._process(job, batch, pipeline, seen),
                watchdog=Watchdog(),
                measure=False,
            )
            visit.run()
        self._poster.drain()
        left = self._journal.release(job.id)
        if left:
            log.warning("job %s: %s left to the server's redelivery", job.id, describe(left))
        if source.error is not None and not source.reserved:
            raise source.error
        if not source.reserved:
            return None
        threads = self._settings.antenna_api_dataloader_download_threads
        return _summary(job, seen, self._own, threads)

    def _pipeline(self, spec: PipelineSpec) -> Pipeline:
        if spec.slug not in self._pipelines:
            self._pipelines.clear()
            self._pipelines[spec.slug] = service.load(spec, self._settings, self._device)
            self._own = private_memory()
        return self._pipelines[spec.slug]

    def _process(self, job: Job, batch: Batch, pipeline: Pipeline, seen: _Seen) -> tuple[int, int]:
        before, started = private_memory(), time.monotonic()
        with Peak() as peak:
            answers = answer(batch, lambda: pipeline, self._device, PassSizes())
        spent = time.monotonic() - started
        self._poster.submit(job.id, answers)
        errors = sum("error" in a.result for a in answers)
        seen.errors += errors
        seen.file_bytes += batch.report.file_bytes
        seen.files += len(batch.tasks) + len(batch.deferred)
        seen.pixels += [height * width for height, width in batch.shapes]
        if batch.tasks:
            at_once = min(len(batch.tasks), self._settings.localization_batch_size)
            work = max(0, peak.bytes - before) // at_once
            report = batch.report
            seen.batches.append(_Timed(len(batch.tasks), report.download_s, report.decode_s, spent, work))
        return len(answers), errors


def chosen(settings: WorkerSettings, slug: str | None) -> dict[str, PipelineSpec]:
    """The pipelines to sample for: the one that is named, else those of the settings.

    Raises:
        SettingsError: this worker does not have it, or its models cannot be used.
    """
    specs = dict(chosen_pipelines(settings))
    if slug is None:
        return specs
    if slug not in specs:
        raise SettingsError([Problem("--pipeline", slug, f"one of {', '.join(specs)}", "command line")])
    return {slug: specs[slug]}


def _summary(job: Job, seen: _Seen, own: int, threads: int) -> TuneSample:
    if not seen.batches:
        raise NoSampleError(
            f"job {job.id}: none of {seen.errors} images could be loaded; each is answered as an error"
        )
    # The first is slower than all that follow.
    timed = seen.batches[1:] or seen.batches
    images = sum(t.images for t in timed)
    upper = sorted(seen.pixels)[len(seen.pixels) // 2 :]
    return TuneSample(
        job_id=job.id,
        pipeline=job.pipeline_slug,
        images=len(seen.pixels),
        errors=seen.errors,
        pixels=sum(upper) // len(upper),
        largest_pixels=max(seen.pixels),
        file_bytes=seen.file_bytes // max(1, seen.files),
        download_s=sum(t.download_s for t in timed) / images,
        downloads_at_once=max(1, min(threads, images // len(timed))),
        decode_s=sum(t.decode_s for t in timed) / images,
        inference_s=sum(t.inference_s for t in timed) / images,
        parent_bytes=own,
        work_bytes=max(t.work_bytes for t in seen.batches),
    )
