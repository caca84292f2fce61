"""Bad bodies are refused whole, with 400 and the name of the field; what the API allows is taken."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from antenna_client import TIME_LIMIT_S, TOKEN, Worker, a_result, traps

from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig


@pytest.fixture(scope="module")
def server() -> Iterator[AntennaServer]:
    """One server for all bodies: each test has a job of its own."""
    with AntennaServer(ServerConfig(token=TOKEN)) as running:
        yield running


def detail(answer: requests.Response) -> str:
    assert answer.status_code == 400
    said: str = answer.json()["detail"]
    return said


def post_text(worker: Worker, path: str, text: str) -> requests.Response:
    return worker.session.post(f"{worker.base_url}{path}", data=text.encode(), timeout=TIME_LIMIT_S)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "body: not JSON"),
        ("{", "body: not JSON"),
        ("\x80", "body: not JSON"),
        ("[" * 200_000, "body: not JSON"),
        ("[]", "body: an object is wanted"),
        ('{"batch_size": NaN}', "body: not JSON: body: NaN"),
        ("{}", "batch_size: is missing"),
        ('{"batch_size": 0}', "batch_size: a whole number over 0"),
        ('{"batch_size": -3}', "batch_size: a whole number over 0"),
        ('{"batch_size": 1.5}', "batch_size: a whole number over 0"),
        ('{"batch_size": true}', "batch_size: a whole number over 0"),
        ('{"batch_size": "8"}', "batch_size: a whole number over 0"),
    ],
)
def test_a_bad_request_for_tasks(server: AntennaServer, worker: Worker, text: str, named: str) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))

    assert named in detail(post_text(worker, f"/jobs/{job}/tasks/", text))
    assert server.state().jobs[job].reserved == 0


def change(result: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The result with the field at `path` replaced, or removed where the value is `...`."""
    changed = copy.deepcopy(result)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    holder: Any = changed
    for parent in parents:
        holder = holder[parent]
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("pipeline", ...),
        ("pipeline", 3),
        ("total_time", "fast"),
        ("total_time", True),
        ("source_images", {}),
        ("source_images.0.id", None),
        ("source_images.0.url", ""),
        ("detections", ...),
        ("detections.0", "moth"),
        ("detections.0.bbox", [1, 2, 3, 4]),
        ("detections.0.bbox.x1", ...),
        ("detections.0.bbox.y2", "40"),
        ("detections.0.algorithm", ...),
        ("detections.0.algorithm.key", ""),
        ("detections.0.timestamp", "yesterday"),
        ("detections.0.source_image_id", ...),
        ("detections.0.crop_image_url", 7),
        ("detections.0.classifications", "moth"),
        ("detections.0.classifications.0.classification", None),
        ("detections.0.classifications.0.terminal", "yes"),
        ("detections.0.classifications.0.scores", 0.9),
        ("detections.0.classifications.0.scores.1", "0.1"),
        ("detections.0.classifications.0.labels.0", 1),
        ("detections.0.classifications.0.timestamp", ...),
    ],
)
def test_one_bad_field_refuses_the_whole_post(
    server: AntennaServer, worker: Worker, path: str, value: Any
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(2)))
    good, bad = worker.reserve(job, 2)
    results = [
        {"reply_subject": good["reply_subject"], "result": a_result(good["image_id"])},
        {"reply_subject": bad["reply_subject"], "result": change(a_result(bad["image_id"]), path, value)},
    ]

    said = detail(worker.post(f"/jobs/{job}/result/", {"results": results}))

    dotted = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in path.split("."))
    assert said.startswith(f"results[1].result{dotted}: ")
    assert server.state().jobs[job].answered == 0


@pytest.mark.parametrize(
    ("results", "named"),
    [
        (None, "results: a list is wanted"),
        ([3], "results[0]: an object is wanted"),
        ([{"result": {"error": "x"}}], "results[0].reply_subject: is missing"),
        ([{"reply_subject": "", "result": {"error": "x"}}], "results[0].reply_subject: some text"),
        ([{"reply_subject": "x"}], "results[0].result: is missing"),
        ([{"reply_subject": "x", "result": "error"}], "results[0].result: an object is wanted"),
        ([{"reply_subject": "x", "result": {"error": None}}], "results[0].result.error: some text"),
        (
            [{"reply_subject": "x", "result": {"error": "e", "image_id": 1.5}}],
            "results[0].result.image_id: an id",
        ),
    ],
)
def test_a_bad_list_of_results(server: AntennaServer, worker: Worker, results: Any, named: str) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))

    assert detail(worker.post(f"/jobs/{job}/result/", {"results": results})).startswith(named)


def test_a_score_that_is_no_number_is_refused(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    text = (
        '{"results": [{"reply_subject": "%s", "result": {"pipeline": "p", "total_time": NaN,'
        ' "source_images": [], "detections": []}}]}'
    )

    assert "NaN" in detail(post_text(worker, f"/jobs/{job}/result/", text % task["reply_subject"]))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("detections", []),
        ("detections.0.bbox", ...),
        ("detections.0.bbox", None),
        ("detections.0.inference_time", ...),
        ("detections.0.crop_image_url", "http://127.0.0.1/crop.jpg"),
        ("detections.0.timestamp", "2026-11-20T08:00:00.123456"),
        ("detections.0.timestamp", "2026-11-20T08:00:00Z"),
        ("detections.0.classifications", []),
        ("detections.0.classifications.0.labels", None),
        ("detections.0.classifications.0.logits", ...),
        ("config", {"anything": "else"}),
    ],
)
def test_what_may_be_missing_or_more_is_taken(
    server: AntennaServer, worker: Worker, path: str, value: Any
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    result = change(a_result(task["image_id"]), path, value)

    answer = worker.post(
        f"/jobs/{job}/result/", {"results": [{"reply_subject": task["reply_subject"], "result": result}]}
    )

    assert answer.status_code == 200
    assert server.answers(job)[0].result == result


def test_an_error_needs_no_image(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(2)))
    first, second = worker.reserve(job, 2)
    results = [
        {"reply_subject": first["reply_subject"], "result": {"error": "e", "image_id": None}},
        {"reply_subject": second["reply_subject"], "result": {"error": "e"}},
    ]

    assert worker.post(f"/jobs/{job}/result/", {"results": results}).status_code == 200
    state = server.state().jobs[job]
    assert (state.errors, state.wrong_image) == (2, 0)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"pipelines": []}, "processing_service_name: is missing"),
        ({"processing_service_name": "", "pipelines": []}, "processing_service_name: some text"),
        ({"processing_service_name": "x"}, "pipelines: is missing"),
        ({"processing_service_name": "x", "pipelines": ["moth"]}, "pipelines[0]: an object"),
        ({"processing_service_name": "x", "pipelines": [{"name": "m"}]}, "pipelines[0].slug: is missing"),
        (
            {"processing_service_name": "x", "pipelines": [{"name": "m", "slug": "m", "algorithms": [{}]}]},
            "pipelines[0].algorithms[0].name: is missing",
        ),
        (
            {"processing_service_name": "x", "pipelines": [{"name": "m", "slug": "m", "version": "one"}]},
            "pipelines[0].version: a number",
        ),
    ],
)
def test_a_bad_registration(server: AntennaServer, worker: Worker, body: Any, named: str) -> None:
    assert detail(worker.post("/projects/1/pipelines/", body)).startswith(named)
    assert server.registered() == {}
