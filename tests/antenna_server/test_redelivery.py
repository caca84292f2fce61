"""Visibility time, redelivery and loss as a worker meets them, over real HTTP in real time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from antenna_client import TOKEN, Worker, eventually, traps

from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig

THREADS = 20
TASKS = 2000


@pytest.fixture
def hasty() -> Iterator[AntennaServer]:
    """A server that hands out again at once what is not answered."""
    config = ServerConfig(token=TOKEN, visibility_timeout_s=0.2, max_deliver=2)
    with AntennaServer(config) as running:
        yield running


def reserve_one(worker: Worker, job: int) -> dict[str, str]:
    tasks: list[dict[str, str]] = []

    def got_one() -> bool:
        tasks.extend(worker.reserve(job, 1))
        return bool(tasks)

    assert eventually(got_one)
    return tasks[0]


def test_an_unanswered_task_comes_again_under_a_new_reply_subject_and_is_then_lost(
    hasty: AntennaServer,
) -> None:
    worker = Worker(hasty)
    job = hasty.add_job(JobSpec("moth_binary", traps(1)))

    first, second = reserve_one(worker, job), reserve_one(worker, job)

    assert (first["id"], first["image_url"]) == (second["id"], second["image_url"])
    assert first["reply_subject"] != second["reply_subject"]
    assert eventually(lambda: hasty.state().lost == 1)
    assert worker.reserve(job, 1) == []
    assert worker.poll() == []
    state = hasty.state().jobs[job]
    assert (state.redelivered, state.lost, state.answered, state.complete) == (1, 1, 0, True)


def test_an_answer_to_the_delivery_before_still_counts(hasty: AntennaServer) -> None:
    worker = Worker(hasty)
    job = hasty.add_job(JobSpec("moth_binary", traps(1)))
    first, second = reserve_one(worker, job), reserve_one(worker, job)

    worker.reply(job, first)
    worker.reply(job, second)

    state = hasty.state()
    assert (state.results, state.late, state.answered_twice, state.lost) == (1, 1, 1, 0)
    assert hasty.answers(job)[0].times == 2


def test_twenty_threads_never_get_the_same_task(server: AntennaServer) -> None:
    job = server.add_job(JobSpec("moth_binary", traps(1) * TASKS))
    got: list[list[dict[str, str]]] = [[] for _ in range(THREADS)]

    def work(mine: list[dict[str, str]], batch_size: int) -> None:
        worker = Worker(server)
        while tasks := worker.reserve(job, batch_size):
            worker.reply(job, *tasks)
            mine.extend(tasks)

    threads = [threading.Thread(target=work, args=(mine, 1 + n % 9)) for n, mine in enumerate(got)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    tasks = [task for mine in got for task in mine]
    assert len(tasks) == TASKS
    assert len({task["id"] for task in tasks}) == TASKS
    assert len({task["reply_subject"] for task in tasks}) == TASKS
    state = server.state()
    assert (state.results, state.answered_twice, state.redelivered, state.waiting) == (TASKS, 0, 0, 0)
    assert state.jobs[job].complete
