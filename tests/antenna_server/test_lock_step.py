"""The gate for `GET /jobs`: polls wait for the controller, and only they."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import FrameType

import pytest
from antenna_client import TIME_LIMIT_S, Worker, address, eventually, traps

from amidiag.soak.antenna import AntennaServer, AntennaServerError, FaultSpec, JobSpec

Poll = Callable[..., "Future[list[int]]"]


@pytest.fixture
def poll(server: AntennaServer) -> Iterator[Poll]:
    """Polls in the background, each on its own connection; no poll outlives the test."""
    with ThreadPoolExecutor(8) as pool:
        yield lambda **query: pool.submit(Worker(server).poll, **query)
        server.free_polls()


def test_a_poll_waits_until_it_is_released(server: AntennaServer, poll: Poll) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    server.hold_polls()
    assert not server.wait_poll(0.05)

    answer = poll()

    assert server.wait_poll(TIME_LIMIT_S)
    assert not answer.done()
    assert (server.state().polls, server.state().polls_waiting) == (0, 1)
    assert server.release_poll()
    assert answer.result(TIME_LIMIT_S) == [job]
    assert (server.state().polls, server.state().polls_waiting) == (1, 0)


def test_a_poll_finds_exactly_the_jobs_that_it_is_released_with(server: AntennaServer, poll: Poll) -> None:
    jobs = [server.add_job(JobSpec("moth_binary", traps(1))) for _ in range(3)]
    complete = server.add_job(JobSpec("trap_species"))
    server.hold_polls()
    for listed in ([], [jobs[2], complete, jobs[0]], [jobs[1]]):
        # What the public worker sends: without a limit ids_only would give one job.
        answer = poll(limit=1, pipeline__slug__in="moth_binary")
        assert server.wait_poll(TIME_LIMIT_S)
        assert server.release_poll(jobs=listed)
        assert answer.result(TIME_LIMIT_S) == listed


def test_jobs_added_while_a_poll_waits_are_found_by_it(server: AntennaServer, poll: Poll) -> None:
    server.hold_polls()
    answer = poll()
    assert server.wait_poll(TIME_LIMIT_S)

    job = server.add_job(JobSpec("moth_binary", traps(1)))
    server.release_poll()

    assert answer.result(TIME_LIMIT_S) == [job]


def test_hundreds_of_cycles_see_one_poll_each(server: AntennaServer) -> None:
    server.hold_polls()
    found: list[list[int]] = []

    def work() -> None:
        worker = Worker(server)
        while not found or found[-1]:
            found.append(worker.poll())

    polling = threading.Thread(target=work)
    polling.start()
    jobs = []
    for cycle in range(300):
        assert server.wait_poll(TIME_LIMIT_S)
        assert server.state([]).polls == cycle
        jobs.append(server.add_job(JobSpec("moth_binary", traps(1))))
        server.release_poll([jobs[-1]])
    assert server.wait_poll(TIME_LIMIT_S)
    server.release_poll([])
    polling.join()

    assert found == [*([job] for job in jobs), []]
    assert server.state([]).connections_total == 1


def test_two_workers_are_released_in_the_order_of_their_polls(server: AntennaServer, poll: Poll) -> None:
    first_job, second_job = (server.add_job(JobSpec("moth_binary")) for _ in range(2))
    server.hold_polls()
    first = poll()
    assert server.wait_poll(TIME_LIMIT_S)
    second = poll()
    assert server.wait_poll(TIME_LIMIT_S, count=2)

    server.release_poll([first_job])
    assert first.result(TIME_LIMIT_S) == [first_job]
    assert not second.done()
    server.release_poll([second_job])
    assert second.result(TIME_LIMIT_S) == [second_job]


def test_freeing_lets_all_polls_go_on_and_holds_no_other(server: AntennaServer, poll: Poll) -> None:
    server.hold_polls()
    answers = [poll(), poll(), poll()]
    assert server.wait_poll(TIME_LIMIT_S, count=3)

    server.free_polls()

    assert [answer.result(TIME_LIMIT_S) for answer in answers] == [[], [], []]
    assert poll().result(TIME_LIMIT_S) == []


def test_only_polls_with_the_right_token_are_held(server: AntennaServer, worker: Worker) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1)))
    server.hold_polls()

    assert len(worker.reserve(job, 1)) == 1
    assert worker.get("/projects/").ok
    assert Worker(server, token="wrong").get("/jobs").status_code == 401
    assert not server.wait_poll(0)


def test_a_held_poll_meets_its_fault_when_it_is_released(server: AntennaServer) -> None:
    server.hold_polls()
    server.fault(FaultSpec("503", on=("jobs",), requests=1))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(Worker(server).get, "/jobs")
        assert server.wait_poll(TIME_LIMIT_S)
        server.release_poll()
        assert answer.result(TIME_LIMIT_S).status_code == 503


def test_a_poll_whose_worker_went_away_is_not_held(server: AntennaServer) -> None:
    server.hold_polls()
    descriptors = fd_count(server.pid)
    request = b"GET /api/v2/jobs HTTP/1.1\r\nAuthorization: Token trap-token\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(address(server)) as connection:
            connection.sendall(request)
            assert server.wait_poll(TIME_LIMIT_S)
        assert eventually(lambda: server.state().polls_waiting == 0)

    assert not server.release_poll()
    assert server.state().polls == 0
    assert eventually(lambda: server.state().connections_open == 0)
    # One more is the channel of this thread, made by its first question.
    assert eventually(lambda: fd_count(server.pid) <= descriptors + 1)


def fd_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_releasing_nothing_and_unknown_jobs(server: AntennaServer, poll: Poll) -> None:
    server.hold_polls()
    assert not server.release_poll()
    answer = poll()
    assert server.wait_poll(TIME_LIMIT_S)

    with pytest.raises(AntennaServerError, match="no job has the id 99"):
        server.release_poll([99])

    assert not answer.done()
    assert server.wait_poll(0)


def test_the_controller_can_ask_while_another_of_its_threads_waits(server: AntennaServer, poll: Poll) -> None:
    server.hold_polls()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.wait_poll, TIME_LIMIT_S)
        assert server.state().polls == 0
        assert server.add_job(JobSpec("moth_binary")) == 1
        assert not waiting.done()
        poll()
        assert waiting.result(TIME_LIMIT_S)


def test_a_wait_broken_off_by_a_signal_leaves_the_controller_usable(server: AntennaServer) -> None:
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    server.hold_polls()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            server.wait_poll(TIME_LIMIT_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    # The answer of the broken wait, False, must not become the answer to this question.
    assert server.add_job(JobSpec("moth_binary")) == 1
    assert server.state().total == 0
