"""The process that `ingest_memory.py` looks at: the worker's own loader, fed without end, one batch for each line read.

    python benchmarks/memory_cell.py ORIGIN WIDTH HEIGHT [PIPELINE]

The settings come from the environment. After each batch it says so in one line of JSON and keeps the batch, as if
it worked on it, until it is told to go on; with PIPELINE it works on it first. At the end of its input it ends.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from image_server import address

from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.schemas import Task
from worker.cpu import set_torch_threads
from worker.draining import Drain
from worker.guard.budget import Budget
from worker.guard.tuner import Tuning
from worker.guard.watchdog import Watchdog
from worker.ingest.batch import Batch
from worker.ingest.limits import ImageLimits
from worker.ingest.loader import Loader
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource
from worker.ingest.staging import Stager
from worker.pipelines import Pipeline, load_pipeline
from worker.settings import WorkerSettings, read
from worker.visit import Visit

JOB = 1


class Endless(AntennaClient):
    """A server that always has more tasks, each with an address of its own."""

    def __init__(self, origin: str, size: tuple[int, int]) -> None:
        super().__init__(origin, "none")
        self._origin = origin
        self._size = size
        self._numbers = itertools.count()

    def reserve(self, job_id: int, count: int) -> list[Task]:
        """So many tasks as are asked for."""
        numbers = itertools.islice(self._numbers, count)
        return [Task(str(n), str(n), address(self._origin, self._size, n), None) for n in numbers]


class Cell:
    """Loader, source, tuner and stager as the worker puts them together."""

    def __init__(self, settings: WorkerSettings, client: AntennaClient, pipeline: str | None) -> None:
        self._stager = None
        if settings.staging_dir:
            self._stager = Stager(
                Path(settings.staging_dir),
                max_bytes=settings.staging_max_bytes,
                limits=ImageLimits.of(settings),
                threads=settings.antenna_api_dataloader_download_threads,
            )
        self._journal = Journal()
        self._pipeline: Pipeline | None = None
        if pipeline:
            self._pipeline = load_pipeline(pipeline, device=torch.device("cpu"))
        self.tuner = Tuning(settings, Budget.of(settings)).for_job(JOB, "cell")
        self._drain = Drain()
        pace = Pace(settings.visibility_timeout_s)
        source = JobSource(
            client,
            self._journal,
            self.tuner,
            pace,
            job_id=JOB,
            drain=self._drain,
            first_task=lambda: None,
            stager=self._stager,
        )
        source.look()
        self._loader = Loader(settings)
        self._visit = Visit(
            source,
            self._loader,
            job_id=JOB,
            tuner=self.tuner,
            pace=pace,
            drain=self._drain,
            process=self._take,
            watchdog=Watchdog(),
            measure=False,
        )

    def run(self) -> None:
        """One batch for each line of input."""
        self._visit.run()
        self._loader.close()
        if self._stager is not None:
            self._stager.close()

    def _take(self, batch: Batch) -> tuple[int, int]:
        if batch.failures:
            sys.exit(f"the loader failed: {batch.failures[0].error}")
        if self._pipeline is not None:
            self._pipeline.process(batch.images(torch.device("cpu")))
        plan = self.tuner.plan()
        said = {
            "images": len(batch.tasks),
            "bytes": batch.bytes,
            "depth": plan.depth,
            "batch_bytes": plan.batch_bytes,
        }
        print(json.dumps(said), flush=True)
        # Kept until it is told to go on: the batch that is being worked on.
        self._drain.requested = not sys.stdin.readline()
        self._journal.answered(JOB, [task.id for task in batch.tasks])
        if self._stager is not None:
            self._stager.done(JOB, batch.tasks)
        return len(batch.tasks), 0


def main() -> None:
    """Run one cell."""
    origin, width, height, *pipeline = sys.argv[1:]
    settings = read(Path("/dev/null")).settings
    set_torch_threads(settings.num_workers)
    client = Endless(origin, (int(width), int(height)))
    Cell(settings, client, pipeline[0] if pipeline else None).run()


if __name__ == "__main__":
    main()
