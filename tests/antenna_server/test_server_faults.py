"""What goes wrong on purpose: only where and as often as it was asked for."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import requests
from antenna_client import TIME_LIMIT_S, TOKEN, Worker, address, eventually, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec, ImageSpec, JobSpec, ServerConfig


def image_url(server: AntennaServer, worker: Worker, image: ImageSpec) -> str:
    job = server.add_job(JobSpec("moth_binary", (image,)))
    return worker.reserve(job, 1)[0]["image_url"]


def test_503_for_the_next_requests_of_a_call_and_without_effect(
    server: AntennaServer, worker: Worker
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(2)))
    server.fault(FaultSpec("503", on=("tasks",), requests=2))
    path, body = f"/jobs/{job}/tasks/", {"batch_size": 1}

    assert worker.poll() == [job]
    assert [worker.post(path, body).status_code for _ in range(3)] == [503, 503, 200]

    state = server.state()
    assert state.requests["POST tasks"] == {503: 2, 200: 1}
    assert (state.faults, state.reserved) == ({"503": 2}, 1)


def test_503_on_results_does_not_take_them(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    server.fault(FaultSpec("503", on=("result",)))

    assert [worker.reply(job, task).status_code for _ in range(4)] == [503] * 4
    assert server.answers(job)[0].times == 0
    server.clear_faults()
    assert worker.reply(job, task).status_code == 200
    assert server.answers(job)[0].times == 1


def test_503_without_names_is_for_jobs_tasks_and_results(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    server.fault(FaultSpec("503"))

    assert worker.get("/jobs").status_code == 503
    assert worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1}).status_code == 503
    assert worker.reply(job, task).status_code == 503
    assert worker.get("/projects/").status_code == 200
    assert requests.get(task["image_url"], timeout=TIME_LIMIT_S).status_code == 200


def outcomes(seed: int) -> list[int]:
    with AntennaServer(ServerConfig(token=TOKEN, seed=seed)) as server:
        server.fault(FaultSpec("503", on=("jobs",), probability=0.3))
        worker = Worker(server)
        return [worker.get("/jobs").status_code for _ in range(100)]


def test_faults_by_chance_follow_the_seed() -> None:
    first = outcomes(seed=1)

    assert first == outcomes(seed=1)
    assert first != outcomes(seed=2)
    assert 10 <= first.count(503) <= 50
    assert set(first) == {200, 503}


def test_401_on_request(server: AntennaServer, worker: Worker) -> None:
    server.fault(FaultSpec("401", requests=1))

    assert worker.get("/jobs").status_code == 401
    assert worker.get("/jobs").status_code == 200
    assert server.state().unauthorized == 1


def test_an_image_that_is_gone_for_one_download(server: AntennaServer, worker: Worker) -> None:
    url = image_url(server, worker, ImageSpec(traps(1)[0]))
    server.fault(FaultSpec("404", requests=1))

    assert requests.get(url, timeout=TIME_LIMIT_S).status_code == 404
    assert requests.get(url, timeout=TIME_LIMIT_S).status_code == 200


def test_an_image_that_is_missing_for_ever(server: AntennaServer, worker: Worker) -> None:
    url = image_url(server, worker, ImageSpec(traps(1)[0], missing=True))

    assert [requests.get(url, timeout=TIME_LIMIT_S).status_code for _ in range(3)] == [404] * 3


def test_a_slow_body_outlasts_a_read_limit_and_arrives_whole_for_the_patient(
    server: AntennaServer, worker: Worker
) -> None:
    url = image_url(server, worker, ImageSpec(traps(1)[0]))
    whole = requests.get(url, timeout=TIME_LIMIT_S).content

    server.fault(FaultSpec("slow", requests=1, seconds=60))
    with pytest.raises(requests.ConnectionError, match="timed out"):
        requests.get(url, timeout=(TIME_LIMIT_S, 0.2))
    server.fault(FaultSpec("slow", requests=1, seconds=0.2))
    assert requests.get(url, timeout=TIME_LIMIT_S).content == whole
    assert server.state().faults == {"slow": 2}


def test_a_cut_body_ends_early(server: AntennaServer, worker: Worker) -> None:
    url = image_url(server, worker, ImageSpec(traps(1)[0], cut=True))

    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        requests.get(url, timeout=TIME_LIMIT_S)


def test_a_cut_answer_to_a_posted_result_leaves_it_saved(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    server.fault(FaultSpec("cut", on=("result",), requests=1))

    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        worker.reply(job, task)
    assert server.answers(job)[0].times == 1
    # The worker cannot know, and posts again: that is how a task is answered twice.
    assert worker.reply(job, task).status_code == 200
    assert server.state().answered_twice == 1


def test_down_cuts_connections_refuses_new_ones_and_comes_back_on_its_port(
    server: AntennaServer, worker: Worker
) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)

    server.fault(FaultSpec("down", seconds=3600))

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address(server))
    with pytest.raises(requests.ConnectionError):
        worker.poll()
    with pytest.raises(OSError, match="Address already in use"), socket.socket() as thief:
        thief.bind(address(server))
    assert eventually(lambda: server.state().connections_open == 0)

    # A shorter time replaces the longer one.
    server.fault(FaultSpec("down", seconds=0.05))

    def answers() -> bool:
        try:
            return worker.poll() == [job]
        except requests.ConnectionError:
            return False

    assert eventually(answers)
    assert worker.reply(job, task).status_code == 200
    assert (server.state().results, server.state().faults) == (1, {"down": 2})


def test_down_ends_polls_that_are_held(server: AntennaServer) -> None:
    server.hold_polls()
    connection = socket.create_connection(address(server), timeout=TIME_LIMIT_S)
    with connection:
        connection.sendall(b"GET /api/v2/jobs HTTP/1.1\r\nAuthorization: Token trap-token\r\n\r\n")
        assert server.wait_poll(TIME_LIMIT_S)

        server.fault(FaultSpec("down", seconds=3600))

        assert connection.recv(100) == b""
    assert eventually(lambda: server.state().polls_waiting == 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "500"}, "kind: one of 503"),
        ({"kind": "503", "on": ("job",)}, "on: 'job' is none of"),
        ({"kind": "503", "requests": 0}, "requests: must be 1 or more"),
        ({"kind": "503", "probability": 0.0}, "probability: must be over 0"),
        ({"kind": "503", "probability": 1.5}, "probability: must be over 0"),
        ({"kind": "503", "seconds": 1.0}, "seconds: 1.0 means nothing"),
        ({"kind": "slow"}, "seconds: 0.0 means nothing"),
        ({"kind": "down"}, "seconds: 0.0 means nothing"),
        ({"kind": "down", "seconds": 1.0, "requests": 2}, "down: takes only seconds"),
        ({"kind": "clock-jump", "seconds": 1.0, "on": ("jobs",)}, "clock-jump: takes only seconds"),
        ({"kind": "clock-jump"}, "seconds: 0.0 means nothing"),
        ({"kind": "clock-stop", "seconds": 1.0, "probability": 0.5}, "clock-stop: takes only seconds"),
        ({"kind": "reset", "seconds": 1.0}, "seconds: 1.0 means nothing"),
        ({"kind": "stall"}, "seconds: 0.0 means nothing"),
    ],
)
def test_a_fault_that_means_nothing_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FaultSpec(**fields)
