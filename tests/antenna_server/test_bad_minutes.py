"""What a bad minute of the server is like: throttled, reset, stalled, half-closed; and a queue whose clock is wrong."""

from __future__ import annotations

import socket
import time

import pytest
import requests
from antenna_client import TIME_LIMIT_S, Worker, address, eventually, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec, JobSpec, ServerConfig
from amidiag.soak.antenna.queue_clock import QueueClock

REQUEST = b"GET /api/v2/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Token trap-token\r\n\r\n"


def test_429_says_when_to_come_again_and_has_no_effect(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    server.fault(FaultSpec("429", on=("tasks",), requests=1, seconds=1.2))
    server.fault(FaultSpec("429", on=("jobs",), requests=1))

    refused = worker.post(f"/jobs/{job}/tasks/", {"batch_size": 1})

    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "2")
    assert "Retry-After" not in worker.get("/jobs").headers
    assert len(worker.reserve(job, 1)) == 1


def test_a_reset_is_an_rst_after_the_effect(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    server.fault(FaultSpec("reset", on=("jobs",), requests=1))
    with socket.create_connection(address(server), timeout=TIME_LIMIT_S) as raw:
        raw.sendall(REQUEST)
        with pytest.raises(ConnectionResetError):
            while raw.recv(4096):
                pass

    server.fault(FaultSpec("reset", on=("result",), requests=1))
    with pytest.raises(requests.RequestException):
        worker.reply(job, task)
    assert server.answers(job)[0].times == 1


def test_a_stall_answers_the_patient_and_lets_the_others_go(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(2)))
    server.fault(FaultSpec("stall", on=("tasks",), requests=1, seconds=3600))
    with pytest.raises(requests.ReadTimeout):
        worker.session.post(
            f"{worker.base_url}/jobs/{job}/tasks/", json={"batch_size": 1}, timeout=(TIME_LIMIT_S, 0.1)
        )
    assert eventually(lambda: server.stories(job)[0].deliveries[0].unheard)

    server.fault(FaultSpec("stall", on=("tasks",), requests=1, seconds=0.1))
    assert [task["image_id"] for task in worker.reserve(job, 1)] == [server.answers(job)[1].image_id]
    assert not server.stories(job)[1].deliveries[0].unheard


def test_a_half_closed_connection_ends_without_an_answer(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    server.fault(FaultSpec("half-closed", on=("tasks", "jobs"), requests=2, seconds=3600))
    with socket.create_connection(address(server), timeout=TIME_LIMIT_S) as raw:
        raw.sendall(REQUEST)
        assert raw.recv(4096) == b""
        # The server's half is closed, ours is not: no RST for what is still sent.
        raw.sendall(b"more")
        time.sleep(0.05)
        raw.sendall(b"more")

    with pytest.raises(requests.ConnectionError):
        worker.reserve(job, 1)
    assert eventually(lambda: server.stories(job)[0].deliveries[0].unheard)


def test_a_jump_of_the_clock_ends_reservations_early(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (first,) = worker.reserve(job, 1)
    assert worker.reserve(job, 1) == []

    server.fault(FaultSpec("clock-jump", seconds=60))
    (second,) = worker.reserve(job, 1)

    assert second["reply_subject"] != first["reply_subject"]
    (story,) = server.stories(job)
    assert (story.fate, [d.until is None for d in story.deliveries]) == ("reserved", [False, True])
    worker.reply(job, second)
    assert server.stories(job)[0].fate == "results"
    assert server.state().faults == {"clock-jump": 1}


def test_a_clock_that_stands_still_keeps_reservations() -> None:
    with AntennaServer(ServerConfig(token="trap-token", visibility_timeout_s=0.2)) as server:
        worker = Worker(server)
        with worker.session:
            job = server.add_job(JobSpec("moth_binary", traps(1)))
            server.fault(FaultSpec("clock-stop", seconds=0.6))
            worker.reserve(job, 1)
            time.sleep(0.35)
            assert worker.reserve(job, 1) == []
            assert eventually(lambda: bool(worker.reserve(job, 1)))


def test_the_clock_of_the_queue_never_goes_back() -> None:
    real = 100.0
    clock = QueueClock(lambda: real)
    assert clock() == 100.0
    clock.jump(60)
    assert clock() == 160.0
    clock.stop(30)
    real = 120.0
    assert clock() == 160.0
    clock.stop(30)  # until 150 of the real time
    real = 151.0
    assert clock() == 161.0
    clock.jump(1)
    assert clock() == 162.0


def test_api_and_images_go_down_each_for_itself(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    (task,) = worker.reserve(job, 1)
    server.fault(FaultSpec("down", on=("images",), seconds=3600))
    with pytest.raises(requests.ConnectionError):
        requests.get(task["image_url"], timeout=TIME_LIMIT_S)
    assert worker.poll() == [job]

    server.fault(FaultSpec("down", on=("images",), seconds=0.01))
    server.fault(FaultSpec("down", on=("jobs", "tasks", "result"), seconds=3600))

    def served() -> bool:
        try:
            return requests.get(task["image_url"], timeout=TIME_LIMIT_S).ok
        except requests.ConnectionError:
            return False

    assert eventually(served)
    with pytest.raises(requests.ConnectionError):
        worker.poll()
