"""The loop, in this process: every task answered once, counters true, nothing left behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from typing import Any

import pytest
import torch
from worker_rig import job, traps

from amidiag.attach.status import read_page
from amidiag.model import Counters
from amidiag.soak.antenna import AntennaServer, FaultSpec, ImageSpec, JobSpec
from amidiag.soak.traps import TrapSpec
from amidiag.target.status_page import StatusPage
from worker.answers import answer, detect
from worker.antenna.schemas import Task, UnauthorizedError
from worker.exhaustion import ExhaustedError
from worker.ingest.batch import Batch, Failure, LoaderReport
from worker.ingest.loader import LoaderError
from worker.loop import Worker
from worker.pipelines import Classification, Detection, load_pipeline
from worker.pipelines.catalogue import BINARY, DETECTOR
from worker.reach import UnreachableError

Make = Callable[..., Worker]
CPU = torch.device("cpu")
NOBODY = LoaderReport(0)


def counters(page: StatusPage) -> Counters:
    assert page.path is not None
    return read_page(page.path).view.counters


@pytest.mark.parametrize("loader_processes", [0, 1])
def test_every_task_of_a_job_of_40_is_answered_once(
    server: AntennaServer, worker: Make, page: StatusPage, loader_processes: int
) -> None:
    spoiled = [traps(1, broken=how)[0] for how in ("truncated", "empty", "html", "not_an_image")]
    (good,) = traps(1)
    images: list[TrapSpec | ImageSpec] = [*traps(34), *spoiled, ImageSpec(good, missing=True), good]
    job_id = server.add_job(job(*images))
    worker(server, AMI_NUM_WORKERS=loader_processes, AMI_ANTENNA_API_BATCH_SIZE=8).run(max_polls=2)
    state = server.state()
    assert (state.results, state.errors, state.lost, state.reserved) == (35, 5, 0, 0)
    assert (state.answered_twice, state.wrong_image, state.unknown_replies) == (0, 0, 0)
    answers = server.answers(job_id)
    assert [a.times for a in answers] == [1] * 40
    for number in (34, 35, 36, 37, 38):
        result = answers[number].result
        assert result is not None
        assert result["image_id"] == answers[number].image_id
        assert result["error"].startswith("failed to load image: ")
    assert counters(page) == Counters(polls=2, jobs=1, loaders=1, batches=5, images=40, posts=5)


def test_a_result_has_the_shape_of_the_api(server: AntennaServer, worker: Make) -> None:
    spec = TrapSpec(seed=3, width=640, height=480, insects=(4, 4))
    job_id = server.add_job(JobSpec(pipeline="trap_species", images=(spec,)))
    worker(server).run(max_polls=1)
    (only,) = server.answers(job_id)
    assert only.result is not None
    assert set(only.result) == {"pipeline", "total_time", "source_images", "detections"}
    assert only.result["pipeline"] == "trap_species"
    assert only.result["source_images"][0]["id"] == only.image_id
    assert only.result["source_images"][0]["url"].startswith("http://127.0.0.1")
    assert {d["source_image_id"] for d in only.result["detections"]} == {only.image_id}


@pytest.mark.parametrize(("lifetime", "loaders"), [("job", 3), ("worker", 0)])
def test_a_listed_job_without_tasks_builds_a_loader_only_in_upstreams_way(
    server: AntennaServer, worker: Make, page: StatusPage, lifetime: str, loaders: int
) -> None:
    server.add_job(JobSpec(pipeline="moth_binary", list_always=True))
    worker(server, AMI_ANTENNA_API_DATALOADER_LIFETIME=lifetime).run(max_polls=3)
    assert counters(page) == Counters(polls=3, jobs=0, loaders=loaders, batches=0, images=0, posts=0)


@pytest.mark.parametrize(("lifetime", "loaders"), [("job", 4), ("worker", 1)])
def test_one_loader_serves_all_jobs_unless_each_is_to_have_its_own(
    server: AntennaServer, worker: Make, page: StatusPage, lifetime: str, loaders: int
) -> None:
    for _ in range(4):
        server.add_job(job(*traps(2)))
    # All four are answered by four polls or fewer; of those that came to nothing none may have built one.
    at_work = worker(server, AMI_ANTENNA_API_DATALOADER_LIFETIME=lifetime)
    at_work.run(max_polls=4)
    assert server.state().results == 8
    assert (counters(page).jobs, counters(page).loaders) == (4, loaders)


def test_the_watchdog_gives_a_model_time_to_be_loaded_in_a_job_and_each_reservation_its_own(
    server: AntennaServer, worker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add_job(job(*traps(3)))
    running = worker(server, AMI_ANTENNA_API_BATCH_SIZE=1)
    marks: dict[str, list[Any]] = {"load": [], "reserve": []}

    def noted(kind: str, call: Any) -> Any:
        def noting(*args: Any) -> Any:
            marks[kind].append(running._watchdog._mark)
            return call(*args)

        return noting

    monkeypatch.setattr(running, "_load", noted("load", running._load))
    monkeypatch.setattr(running._client, "reserve", noted("reserve", running._client.reserve))
    running.run(max_polls=1)
    assert {(mark.what, mark.limit_s > 600) for mark in marks["load"]} == {("loading models", True)}
    assert {mark.what for mark in marks["reserve"]} == {"asking for tasks of job 1"}
    assert len({mark.since for mark in marks["reserve"]}) == len(marks["reserve"]) > 2


def test_polls_that_find_no_job_build_nothing(server: AntennaServer, worker: Make, page: StatusPage) -> None:
    worker(server).run(max_polls=3)
    assert counters(page) == Counters(polls=3)


def test_descriptors_threads_and_children_stay_flat_over_jobs(server: AntennaServer, worker: Make) -> None:
    at_work = worker(server)

    def after_a_job() -> tuple[int, int]:
        server.add_job(job(*traps(2)))
        at_work.run(max_polls=1)
        assert active_children() == []
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    after_a_job()
    assert {after_a_job() for _ in range(4)} == {after_a_job()}


def test_two_jobs_of_two_pipelines_are_both_finished(server: AntennaServer, worker: Make) -> None:
    ids = [server.add_job(JobSpec(pipeline=p, images=traps(3))) for p in ("moth_binary", "trap_species")]
    worker(server).run(max_polls=3)
    state = server.state()
    assert [state.jobs[i].results for i in ids] == [3, 3]


def test_a_job_of_a_pipeline_that_was_not_chosen_is_left_alone(server: AntennaServer, worker: Make) -> None:
    job_id = server.add_job(JobSpec(pipeline="trap_species", images=traps(2)))
    server.list_jobs([job_id])
    worker(server, AMI_PIPELINES="moth_binary").run(max_polls=2)
    assert server.state().waiting == 2


@pytest.mark.parametrize("route", ["tasks", "result", "jobs"])
def test_503_on_any_call_costs_no_task(server: AntennaServer, worker: Make, route: Any) -> None:
    server.add_job(job(*traps(6)))
    server.fault(FaultSpec("503", on=(route,), requests=2))
    worker(server, AMI_ANTENNA_API_BATCH_SIZE=2).run(max_polls=6)
    state = server.state()
    assert (state.results, state.answered_twice, state.redelivered) == (6, 0, 0)
    assert state.faults == {"503": 2}


@pytest.mark.parametrize("lifetime", ["job", "worker"])
def test_a_loader_that_fails_on_one_image_costs_no_other(
    server: AntennaServer, worker: Make, caplog: pytest.LogCaptureFixture, lifetime: str
) -> None:
    (good,) = traps(1)
    server.add_job(job(ImageSpec(good, slow_s=3), *traps(3)))
    worker(
        server,
        AMI_ANTENNA_API_DATALOADER_TIMEOUT_S="0.8",
        AMI_ANTENNA_API_DATALOADER_LIFETIME=lifetime,
    ).run(max_polls=1)
    state = server.state()
    assert (state.results, state.errors, state.answered_twice, state.redelivered) == (3, 1, 0, 0)
    failed = [r.getMessage() for r in caplog.records if r.levelname == "ERROR"]
    assert len(failed) == 3
    assert all(
        text.startswith("job 1: the loader failed: RuntimeError: DataLoader timed out") for text in failed
    )
    (answer,) = [a.result for a in server.answers(1) if a.result and "error" in a.result]
    assert answer["error"] == "failed to load image: the loader failed with it twice, alone"


@pytest.mark.parametrize(
    ("error", "ends", "words", "reserved"),
    [
        (RuntimeError("no such context"), LoaderError, "5 visits to jobs in a row", 20),
        (
            OSError(24, "Too many open files"),
            ExhaustedError,
            r"EMFILE: Too many open files, .* \(3 in a row\)",
            12,
        ),
    ],
)
def test_a_loader_that_can_never_be_built_ends_the_worker_and_not_the_queue(
    server: AntennaServer,
    worker: Make,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    ends: type[Exception],
    words: str,
    reserved: int,
) -> None:
    def never(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("worker.ingest.loader.build", never)
    monkeypatch.setattr("worker.visit._PAUSE_S", 0.0)
    server.add_job(job(*traps(40)))
    with pytest.raises(ends, match=words):
        worker(server, AMI_ANTENNA_API_BATCH_SIZE=4).run(max_polls=20)
    assert (server.state().errors, server.state().waiting) == (0, 40 - reserved)


def test_what_a_dead_loader_held_too_long_is_left_to_redelivery(
    serve: Callable[..., AntennaServer], worker: Make, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(visibility_timeout_s=2.0)
    (good,) = traps(1)
    server.add_job(job(ImageSpec(good, slow_s=1.5), *traps(3)))
    at_work = worker(server, AMI_ANTENNA_API_DATALOADER_TIMEOUT_S="1", AMI_VISIBILITY_TIMEOUT_S="0.9")
    at_work.run(max_polls=1)
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "job 1: 1 task is too late: left to the server's redelivery" in said
    assert server.state().answered == 3
    while server.state().waiting < 1:
        time.sleep(0.05)
    worker(server).run(max_polls=1)
    state = server.state()
    assert (state.results, state.answered_twice, state.lost) == (4, 0, 0)


def test_a_server_that_gives_no_answer_ends_the_run_after_the_limit(
    server: AntennaServer, worker: Make, page: StatusPage
) -> None:
    at_work = worker(server, AMI_ANTENNA_UNREACHABLE_LIMIT_S="0.4", AMI_ANTENNA_IDLE_SLEEP_SECONDS="0.1")
    server.fault(FaultSpec("503", on=("jobs",)))
    with pytest.raises(UnreachableError, match="GET /jobs: 503 Service Unavailable"):
        at_work.run()
    assert counters(page).polls > 1


def test_an_answer_that_comes_again_resets_the_limit(server: AntennaServer, worker: Make) -> None:
    at_work = worker(server, AMI_ANTENNA_UNREACHABLE_LIMIT_S="60", AMI_ANTENNA_IDLE_SLEEP_SECONDS="0")
    server.fault(FaultSpec("503", on=("jobs",), requests=3))
    at_work.run(max_polls=4)
    server.fault(FaultSpec("503", on=("jobs",), requests=1))
    with pytest.raises(UnreachableError):
        at_work.run(max_polls=1)


def test_an_internal_error_does_not_cost_the_results_that_wait_to_be_posted(
    server: AntennaServer, worker: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(slug: str) -> Any:
        raise RuntimeError("no such weights")

    server.add_job(job(*traps(2, broken="html"), *traps(2)))
    server.fault(FaultSpec("503", on=("result",), requests=2))
    at_work = worker(server, AMI_ANTENNA_API_BATCH_SIZE=2)
    monkeypatch.setattr(at_work, "_load", broken)
    with pytest.raises(RuntimeError, match="no such weights"):
        at_work.run()
    assert (server.state().errors, server.state().reserved) == (2, 2)


@pytest.mark.parametrize("route", ["jobs", "tasks", "result"])
def test_a_token_refused_on_any_call_ends_the_run(server: AntennaServer, worker: Make, route: Any) -> None:
    server.add_job(job(*traps(2)))
    server.fault(FaultSpec("401", on=(route,)))
    with pytest.raises(UnauthorizedError, match="401"):
        worker(server).run(max_polls=3)
    assert active_children() == []


class Fragile:
    """A pipeline of this test's own that fails on images of one width."""

    slug = "fragile"

    def __init__(self, width: int) -> None:
        self._width = width
        self.calls: list[int] = []

    def process(self, images: list[torch.Tensor]) -> list[list[Detection]]:
        self.calls.append(len(images))
        if any(image.shape[2] == self._width for image in images):
            raise RuntimeError("no memory for this one")
        return [[] for _ in images]


def test_an_image_on_which_the_pipeline_fails_does_not_take_its_batch_with_it() -> None:
    fragile: Any = Fragile(width=7)
    images = [torch.zeros((3, 5, width), dtype=torch.uint8) for width in (6, 7, 8)]
    found = detect(fragile, images)
    assert (found[0], found[2]) == ([], [])
    assert "no memory for this one" in str(found[1])
    assert fragile.calls == [3, 1, 1, 1]


def test_numbers_that_json_cannot_say_are_an_error_of_their_image_alone() -> None:
    def found(number: float) -> list[Detection]:
        label = Classification("moth", ("moth",), (number,), (number,), BINARY, True, 0.0)
        return [Detection((0.0, 0.0, 2.0, 2.0), 1.0, DETECTOR, 0.0, (label,))]

    class Doubtful:
        slug = "doubtful"

        def process(self, images: list[torch.Tensor]) -> list[list[Detection]]:
            return [found(0.5), found(float("nan")), []]

    doubtful: Any = Doubtful()
    tasks = tuple(Task(str(i), str(i), "u", None) for i in range(3))
    batch = Batch(torch.zeros(3 * 12, dtype=torch.uint8), ((2, 2),) * 3, (0, 12, 24), tasks, (), (), NOBODY)
    answers = answer(batch, lambda: doubtful, CPU)
    assert ["error" in a.result for a in answers] == [False, True, False]
    assert "not finite" in answers[1].result["error"]


def test_a_batch_of_failures_alone_needs_no_pipeline() -> None:
    task = Task("1", "2", "u", "r")
    batch = Batch(torch.empty(0, dtype=torch.uint8), (), (), (), (Failure(task, "gone"),), (), NOBODY)

    def no_pipeline() -> Any:
        raise AssertionError("asked for a pipeline")

    (only,) = answer(batch, no_pipeline, CPU)
    assert (only.task_id, only.result) == ("1", {"error": "gone", "image_id": "2"})


def test_views_of_a_packed_batch_are_what_the_pipeline_sees_as_contiguous_images() -> None:
    """The packed batch hands out channels-last views; the pipeline must not care."""
    pipeline = load_pipeline("moth_binary", device=CPU)
    flat = torch.randint(0, 255, (2 * 48 * 64 * 3,), dtype=torch.uint8)
    tasks = tuple(Task(str(i), str(i), "u", None) for i in range(2))
    views = Batch(flat, ((48, 64), (48, 64)), (0, 48 * 64 * 3), tasks, (), (), NOBODY).images(CPU)
    as_api = [
        [[d.bbox for d in found] for found in pipeline.process(images)]
        for images in (views, [v.contiguous() for v in views])
    ]
    assert as_api[0] == as_api[1]
