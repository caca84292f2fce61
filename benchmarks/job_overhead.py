"""What a loader costs each job: one for many jobs (LIFETIME=worker) against one for each (LIFETIME=job), forkserver.

    python benchmarks/job_overhead.py

First the loader alone: the time from asking for a job's only batch of one tiny image to having it, less what the
loader process says that it spent on download and decoding; median of 60 jobs. Then the whole worker, `ami worker
run`, on 100 jobs of 2 images each, from its first poll to the last answer. With a loader per job those take minutes,
so fewer are run and the time is scaled to 100. Exit code 1 where the overhead is above 10 ms or one loader for many
jobs ends the jobs less than 20 times sooner.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from image_server import Size, address, serving

from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig
from amidiag.soak.program import Program
from amidiag.soak.traps import TrapSpec
from worker.antenna.schemas import Task
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.loader import Loader
from worker.settings import read

_TINY: Size = (64, 48)
_JOBS, _IMAGES = 100, 2
_OVERHEAD_MS, _SOONER = 10.0, 20.0
_TOKEN = "jobs"
_LIMIT_S = 900.0


class OneImage:
    """A job of one image, as `Loader` is fed."""

    def __init__(self, url: str, job_id: int) -> None:
        task = Task(id=str(job_id), image_id=str(job_id), image_url=url, reply_subject=None)
        self._request: BatchRequest | None = BatchRequest(tasks=(task,), job_id=job_id)

    def next_request(self) -> BatchRequest | None:
        """The image, once."""
        request, self._request = self._request, None
        return request

    def arrived(self, batch: Batch) -> None:
        """Nothing to learn from it."""


def overheads(jobs: int) -> tuple[list[float], list[float]]:
    """For each job after the first, in ms: from asking to having its batch, and the same less download and decoding."""
    settings = read(Path("/dev/null"), {"AMI_ANTENNA_API_AUTH_TOKEN": _TOKEN}).settings
    whole, own = [], []
    with serving([_TINY]) as origin, Loader(settings) as loader:
        for job in range(jobs + 1):
            started = time.perf_counter()
            loader.begin(OneImage(address(origin, _TINY, job), job))
            batch = loader.next()
            seconds = time.perf_counter() - started
            if batch is None or len(batch.tasks) != 1 or loader.next() is not None:
                sys.exit(f"job {job} gave no batch of one image")
            if job:
                whole.append(1e3 * seconds)
                own.append(1e3 * (seconds - batch.report.download_s - batch.report.decode_s))
    return whole, own


def seconds_for(lifetime: str, jobs: int) -> float:
    """From the worker's first poll until all of so many jobs are answered."""
    settings = {
        "AMI_ANTENNA_API_DATALOADER_LIFETIME": lifetime,
        "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": "forkserver",
        "AMI_ANTENNA_API_AUTH_TOKEN": _TOKEN,
    }
    with tempfile.TemporaryDirectory() as directory, AntennaServer(ServerConfig(token=_TOKEN)) as server:
        server.hold_polls()
        images = [TrapSpec(seed=n, width=160, height=120) for n in range(4)]
        for job in range(jobs):
            some = tuple(images[(job + n) % len(images)] for n in range(_IMAGES))
            server.add_job(JobSpec("moth_binary", some))
        settings["AMI_ANTENNA_API_BASE_URL"] = server.base_url
        with Program(("ami", "worker", "run"), settings, (), Path(directory)) as program:
            if not server.wait_poll(timeout=120):
                sys.exit(f"the worker does not poll: {program.last_words()}")
            started = time.monotonic()
            server.free_polls()
            total = jobs * _IMAGES
            while (state := server.state([])).answered < total:
                if program.exit_status is not None or time.monotonic() - started > _LIMIT_S:
                    sys.exit(f"{state.answered} of {total} answered: {program.last_words()}")
                time.sleep(0.02)
            return time.monotonic() - started


def main() -> None:
    """Print both; exit code 1 where one target is missed."""
    parser = argparse.ArgumentParser(description="The cost of a loader for each job.")
    parser.add_argument("--jobs", type=int, default=60, help="of the loader alone")
    parser.add_argument(
        "--per-job-jobs", type=int, default=12, help="jobs run with a loader each, then scaled"
    )
    options = parser.parse_args()
    whole, own = overheads(options.jobs)
    cost = statistics.median(own)
    print(
        f"loader, of {len(own)} jobs with one image of {_TINY[0]}×{_TINY[1]}: median {statistics.median(whole):.2f} ms "
        f"from asking to having the batch, {cost:.2f} ms without download and decoding "
        f"({min(own):.2f} to {max(own):.2f})",
        flush=True,
    )
    one = seconds_for("worker", _JOBS)
    print(f"LIFETIME=worker: {_JOBS} jobs of {_IMAGES} images in {one:.2f} s", flush=True)
    few = seconds_for("job", options.per_job_jobs)
    each = few * _JOBS / options.per_job_jobs
    print(
        f"LIFETIME=job: {options.per_job_jobs} jobs in {few:.2f} s, so {_JOBS} in {each:.0f} s: one loader is "
        f"{each / one:.1f} times sooner"
    )
    sys.exit(0 if cost <= _OVERHEAD_MS and each / one >= _SOONER else 1)


if __name__ == "__main__":
    main()
