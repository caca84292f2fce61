"""Every call of ANTENNA_API.md over real HTTP, and how each refuses."""

from __future__ import annotations

import socket

import pytest
import requests
from antenna_client import TIME_LIMIT_S, Worker, a_result, address, traps

from amidiag.soak.antenna import AntennaServer, JobSpec

QUERY = {"ids_only": 1, "incomplete_only": 1}


def test_jobs_are_listed_with_their_pipeline(server: AntennaServer, worker: Worker) -> None:
    moths = server.add_job(JobSpec("moth_binary", traps(1)))
    species = server.add_job(JobSpec("trap_species", traps(1)))

    listed = worker.get("/jobs", incomplete_only=1).json()

    assert listed == {
        "results": [
            {"id": moths, "pipeline_slug": "moth_binary"},
            {"id": species, "pipeline_slug": "trap_species"},
        ]
    }
    assert worker.poll(pipeline__slug__in="trap_species,other") == [species]
    assert sorted(worker.poll(pipeline__slug__in="trap_species,moth_binary")) == [moths, species]
    assert worker.poll(pipeline__slug__in="other") == []
    assert sorted(worker.poll(pipeline__slug__in="")) == [moths, species]
    assert worker.poll(dispatch_mode="sync_api") == []


def test_ids_only_shuffles_and_gives_one_job_unless_told_a_limit(
    server: AntennaServer, worker: Worker
) -> None:
    jobs = [server.add_job(JobSpec("moth_binary", traps(1))) for _ in range(6)]

    singles = [worker.get("/jobs", **QUERY).json()["results"] for _ in range(40)]
    orders = {tuple(worker.poll(limit=6)) for _ in range(20)}

    assert {len(single) for single in singles} == {1}
    assert len({single[0]["id"] for single in singles}) > 1
    assert len(orders) > 1
    assert all(sorted(order) == jobs for order in orders)
    assert len(worker.poll(limit=4)) == 4
    assert [job["id"] for job in worker.get("/jobs", limit=2).json()["results"]] == jobs[:2]


def test_complete_jobs_are_left_out_only_when_asked(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    empty = server.add_job(JobSpec("moth_binary"))
    always = server.add_job(JobSpec("moth_binary", list_always=True))
    worker.reply(job, *worker.reserve(job, 1))

    assert worker.poll() == [always]
    assert sorted(worker.poll(incomplete_only=0)) == [job, empty, always]
    assert worker.reserve(always, 5) == []


def test_jobs_can_be_shown_and_hidden(server: AntennaServer, worker: Worker) -> None:
    first, second = (server.add_job(JobSpec("moth_binary", traps(1))) for _ in range(2))
    done = server.add_job(JobSpec("moth_binary"))

    server.list_jobs([second, done])
    assert sorted(worker.poll()) == [second, done]
    server.list_jobs([])
    assert worker.poll() == []
    server.list_jobs(None)
    assert sorted(worker.poll()) == [first, second]


def test_tasks_are_reserved_and_answered(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(3)))

    tasks = worker.reserve(job, 2)
    assert [sorted(task) for task in tasks] == [["id", "image_id", "image_url", "reply_subject"]] * 2
    assert len({task["reply_subject"] for task in tasks}) == 2
    reply = worker.reply(job, *tasks)

    assert reply.status_code == 200
    answer = reply.json()
    assert (answer["status"], answer["job_id"], answer["results_queued"]) == ("accepted", job, 2)
    assert [task["reply_subject"] for task in answer["tasks"]] == [task["reply_subject"] for task in tasks]
    assert len({task["task_id"] for task in answer["tasks"]}) == 2
    state = server.state().jobs[job]
    assert (state.total, state.results, state.waiting, state.reserved, state.complete) == (3, 2, 1, 0, False)


def test_answers_give_each_image_its_spec_and_its_first_answer(server: AntennaServer, worker: Worker) -> None:
    images = traps(3)
    job = server.add_job(JobSpec("moth_binary", images))
    first, second = worker.reserve(job, 2)
    worker.reply(job, first)
    worker.reply(job, first, error="again")
    worker.reply(job, second, error="cannot decode")

    answers = server.answers(job)

    assert [answer.spec for answer in answers] == list(images)
    assert [answer.times for answer in answers] == [2, 1, 0]
    assert answers[0].result == a_result(first["image_id"])
    assert answers[1].result == {"error": "cannot decode", "image_id": second["image_id"]}
    assert answers[2].result is None
    assert (server.state().results, server.state().errors, server.state().answered_twice) == (1, 1, 1)


def test_an_unknown_reply_subject_is_taken_and_counted(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)

    reply = worker.reply(job, {**task, "reply_subject": "$JS.ACK.nonsense"})

    assert reply.json()["results_queued"] == 1
    assert (server.state().unknown_replies, server.state().answered) == (1, 0)


def test_projects_and_the_registration_of_pipelines(server: AntennaServer, worker: Worker) -> None:
    (project,) = worker.get("/projects/").json()["results"]
    pipeline = {
        "name": "Moth / nonmoth",
        "slug": "moth_binary",
        "version": 1,
        "description": "",
        "algorithms": [{"name": "Moth / nonmoth", "key": "moth_nonmoth"}],
    }
    body = {"processing_service_name": "trap-host-1", "pipelines": [pipeline]}
    path = f"/projects/{project['id']}/pipelines/"

    first, second = worker.post(path, body), worker.post(path, body)

    assert first.ok
    assert first.json() == {
        "pipelines_created": ["moth_binary"],
        "pipelines_updated": [],
        "processing_service_id": 1,
    }
    assert second.json()["pipelines_updated"] == ["moth_binary"]
    registered = server.registered()
    assert list(registered) == ["trap-host-1"]
    assert registered["trap-host-1"].projects == (project["id"],)
    assert registered["trap-host-1"].pipelines == {"moth_binary": pipeline}


@pytest.mark.parametrize("authorization", [None, "Token wrong", "Bearer trap-token", "trap-token", "Token é"])
def test_a_missing_or_wrong_token_is_401_and_has_no_effect(
    server: AntennaServer, worker: Worker, authorization: str | None
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    del worker.session.headers["Authorization"]
    if authorization is not None:
        worker.session.headers["Authorization"] = authorization.encode("latin-1")

    answers = [
        worker.get("/jobs"),
        worker.get("/projects/"),
        worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1}),
        worker.post(f"/jobs/{job}/result/", {"results": []}),
        worker.post("/projects/1/pipelines/", {}),
    ]

    assert [answer.status_code for answer in answers] == [401] * 5
    assert all(answer.json()["detail"] for answer in answers)
    state = server.state()
    assert (state.unauthorized, state.polls, state.reserved) == (5, 0, 0)


@pytest.mark.parametrize(
    "path", ["/jobs/77/tasks/", "/jobs/x/tasks/", "/jobs/77/result/", "/projects/2/pipelines/", "/nothing/"]
)
def test_what_is_not_there_is_404(worker: Worker, path: str) -> None:
    body = {"batch_size": 1, "results": [], "processing_service_name": "x", "pipelines": []}

    answer = worker.post(path, body)

    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("Not found")


def test_a_wrong_method_is_405(worker: Worker) -> None:
    assert worker.post("/jobs/", {}).status_code == 405
    answer = worker.get("/jobs/1/tasks/")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert worker.session.delete(f"{worker.base_url}/projects/", timeout=TIME_LIMIT_S).status_code == 405


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"ids_only": "yes"}, "ids_only"),
        ({"incomplete_only": "2"}, "incomplete_only"),
        ({"dispatch_mode": "async"}, "dispatch_mode"),
    ],
)
def test_a_bad_query_is_400_and_names_the_parameter(
    worker: Worker, query: dict[str, str], named: str
) -> None:
    answer = worker.get("/jobs", **query)

    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"{named}: ")


def test_requests_bytes_and_connections_are_counted(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    for _ in range(3):
        worker.poll()
    (task,) = worker.reserve(job, 1)
    image = requests.get(task["image_url"], timeout=TIME_LIMIT_S)
    worker.get("/nothing")
    body = worker.get("/jobs", limit=0)

    state = server.state()

    assert state.polls == 3
    assert state.requests == {
        "GET jobs": {200: 3, 400: 1},
        "POST tasks": {200: 1},
        "GET images": {200: 1},
        "other": {404: 1},
    }
    assert state.bytes_in == len('{"batch_size": 1}')
    assert state.bytes_out > len(image.content) + len(body.content)
    assert state.connections_total == 2
    assert state.connections_open >= 1


def exchange(server: AntennaServer, sent: bytes) -> bytes:
    """All that the server says to these bytes, until it closes the connection."""
    with socket.create_connection(address(server), timeout=TIME_LIMIT_S) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_requests_sent_at_once_on_one_connection_are_answered_in_turn(server: AntennaServer) -> None:
    request = b"GET /api/v2/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Token trap-token\r\n\r\n"

    said = exchange(server, request * 3)

    assert said.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert said.count(b'{"results":[]}') == 3


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n", b"411"),
        (b"Content-Length: many\r\n", b"400"),
        (b"Content-Length: 99999999999\r\n", b"413"),
    ],
)
def test_a_body_of_unknown_or_absurd_length_is_refused(
    server: AntennaServer, headers: bytes, status: bytes
) -> None:
    request = b"POST /api/v2/jobs/1/tasks/ HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"

    said = exchange(server, request)

    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"Connection: close" in said


def test_a_client_that_dies_in_the_middle_of_a_body_changes_nothing(
    server: AntennaServer, worker: Worker
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    head = b"POST /api/v2/jobs/1/tasks/ HTTP/1.1\r\nAuthorization: Token trap-token\r\nContent-Length: 40\r\n\r\n"

    assert exchange(server, head + b'{"batch_size": 1}') == b""

    assert server.state().reserved == 0
    assert len(worker.reserve(job, 1)) == 1


def test_head_has_the_length_and_no_body(server: AntennaServer, worker: Worker) -> None:
    answer = worker.session.head(f"{worker.base_url}/jobs", timeout=TIME_LIMIT_S)

    assert (answer.status_code, answer.headers["Content-Length"], answer.content) == (200, "14", b"")
    assert worker.poll() == []
