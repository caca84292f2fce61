"""Each mitigation is a setting: turned back alone, the worker does again what the public worker does."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_rig import job, settings_for, traps

from amidiag.attach.status import read_page
from amidiag.soak.antenna import AntennaServer, JobSpec
from amidiag.target.status_page import StatusPage
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.draining import Drain
from worker.guard.budget import Budget
from worker.guard.tuner import Plan, Tuning
from worker.ingest.batch import BatchRequest
from worker.ingest.dataset import ImageDataset
from worker.ingest.limits import ImageLimits
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource
from worker.loop import Worker
from worker.settings import WorkerSettings, public, read

Make = Callable[..., Worker]

# Of every setting that the public worker has not and that changes what is done: the value that turns it back.
BACK = {
    "AMI_ANTENNA_API_DATALOADER_LIFETIME": "job",
    "AMI_AVOID_TORCH_ATEXIT_LEAK": "false",
    "AMI_VISIBILITY_TIMEOUT_S": "0",
    "AMI_IMAGE_CACHE_MAX_BYTES": "0",
    "AMI_STAGING_DIR": "",
    "AMI_MEMORY_BUDGET": "0",
    "AMI_AUTOTUNE": "false",
    "AMI_MODELS_DIR": "",
    "AMI_MAX_RESIDENT_PIPELINES": "0",
    "AMI_INSTANCES": "0",
    "AMI_CACHE_DRAIN": "false",
    "AMI_WORKER_SPOOL_DIR": "",
    "AMI_WORKER_MAX_FDS_PERCENT": "0",
    "AMI_WORKER_MAX_MEMORY": "0",
    "AMI_WORKER_MAX_AGE_S": "0",
    "AMI_WORKER_MAX_JOBS": "0",
    "AMI_WORKER_LOG_FORMAT": "text",
    "AMI_METRICS_PORT": "0",
}
# Those that only bound what a single image may cost, or say where something is kept.
BOUNDS = {
    "AMI_IMAGE_MAX_BYTES",
    "AMI_IMAGE_MAX_PIXELS",
    "AMI_IMAGE_TIMEOUT_S",
    "AMI_STAGING_MAX_BYTES",
    "AMI_WORKER_WATCHDOG_S",
    "AMI_WORKER_DRAIN_LIMIT_S",
    "AMI_METRICS_ADDRESS",
    "AMI_WORKER_SPOOL_MAX_BYTES",
    "AMI_DIAG_TRACE",
}


def test_no_setting_of_ours_is_missing_here() -> None:
    from test_worker_settings import OURS

    assert set(OURS) == set(BACK) | BOUNDS
    changed = public(read(Path("/dev/null"), BACK).settings)
    assert {name for name in OURS if changed[name] != OURS[name]} == set(BACK) - {
        # Upstream's already.
        *("AMI_STAGING_DIR", "AMI_MODELS_DIR", "AMI_MAX_RESIDENT_PIPELINES", "AMI_INSTANCES"),
        *("AMI_WORKER_MAX_AGE_S", "AMI_WORKER_MAX_JOBS", "AMI_WORKER_LOG_FORMAT", "AMI_METRICS_PORT"),
    }


@pytest.fixture
def requests(server: AntennaServer) -> Iterator[Callable[..., list[int]]]:
    """How many images each request of a job asks for until nothing more may be in flight."""
    client = AntennaClient(server.base_url, server.config.token)

    def ask(settings: WorkerSettings, images: int) -> list[int]:
        job_id = server.add_job(job(*traps(images)))
        source = JobSource(
            client,
            Journal(),
            Tuning(settings, Budget.of(settings)).for_job(job_id, "moth_binary"),
            Pace(settings.visibility_timeout_s),
            job_id=job_id,
            drain=Drain(),
            first_task=lambda: None,
        )
        found: list[int] = []
        while (request := source.next_request()) is not None:
            found.append(len(request.tasks))
        return found

    yield ask
    client.close()


def test_all_turned_back_take_batch_size_times_prefetch_at_once_as_upstream_does(
    server: AntennaServer, requests: Callable[..., list[int]]
) -> None:
    assert requests(settings_for(server, **BACK), 120) == [24, 24, 24, 24]


@pytest.mark.parametrize(
    ("name", "turned_back", "by_default"),
    [
        # With the probe of the tuner and few in hand before the speed is known: four and four.
        ("AMI_VISIBILITY_TIMEOUT_S", 24, 8),
        ("AMI_AUTOTUNE", 24, 4),
    ],
)
def test_the_first_batch_is_as_set_where_nothing_holds_it_back(
    server: AntennaServer,
    requests: Callable[..., list[int]],
    name: str,
    turned_back: int,
    by_default: int,
) -> None:
    others = {k: v for k, v in BACK.items() if k != name}
    assert requests(settings_for(server, **others), 60)[0] == by_default
    assert requests(settings_for(server, **others | {name: BACK[name]}), 60)[0] == turned_back


def test_without_budget_and_tuning_no_batch_is_bounded(server: AntennaServer) -> None:
    settings = settings_for(server, **BACK)
    assert Tuning(settings, Budget.of(settings)).for_job(1, "any").plan() == Plan(24, 4, None)
    budget = settings_for(server, **BACK | {"AMI_MEMORY_BUDGET": "4GiB"})
    assert Tuning(budget, Budget.of(budget)).for_job(1, "any").batch_bytes() is not None


@pytest.mark.parametrize(("lifetime", "loaders"), [("job", 3), ("worker", 0)])
def test_a_loader_is_built_for_each_listed_job_on_every_poll(
    server: AntennaServer, worker: Make, page: StatusPage, lifetime: str, loaders: int
) -> None:
    server.add_job(JobSpec(pipeline="moth_binary", list_always=True))
    worker(server, AMI_ANTENNA_API_DATALOADER_LIFETIME=lifetime).run(max_polls=3)
    assert page.path is not None
    assert read_page(page.path).view.counters.loaders == loaders


@pytest.mark.parametrize(("cache_bytes", "downloads"), [(0, 2), (2**20, 1)])
def test_an_image_that_comes_again_is_downloaded_again_without_a_cache(
    server: AntennaServer, cache_bytes: int, downloads: int
) -> None:
    client = AntennaClient(server.base_url, server.config.token)
    tasks = tuple(client.reserve(server.add_job(job(*traps(1))), 1))
    client.close()
    settings = settings_for(server)
    dataset = ImageDataset(ImageLimits.of(settings), 1, cache_bytes, "")
    for _ in range(2):
        batch = dataset[BatchRequest(tasks, 1)]
        assert not batch.failures
    dataset.close()
    assert sum(server.state().requests["GET images"].values()) == downloads


def test_everything_turned_back_still_answers_every_task_once(
    server: AntennaServer, worker: Make, page: StatusPage
) -> None:
    server.add_job(job(*traps(10)))
    worker(server, **BACK, AMI_ANTENNA_API_BATCH_SIZE=4).run(max_polls=2)
    state = server.state()
    assert (state.results, state.answered_twice, state.redelivered) == (10, 0, 0)
    assert multiprocessing.active_children() == []
    assert page.path is not None
    assert read_page(page.path).view.counters.loaders == 1
