"""Journal, reservation and posting against a queue that redelivers and fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from worker_rig import TOKEN, job, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.posting import Answer, ResultPoster
from worker.antenna.schemas import (
    BadAnswerError,
    Task,
    UnauthorizedError,
    UnavailableError,
    parse_jobs,
    parse_tasks,
)

Poster = Callable[..., ResultPoster]


@pytest.fixture
def client(server: AntennaServer) -> Iterator[AntennaClient]:
    client = AntennaClient(server.base_url, TOKEN)
    yield client
    client.close()


def errors_for(tasks: list[Task]) -> list[Answer]:
    return [Answer(t.id, {"error": "tested", "image_id": t.image_id}) for t in tasks]


class Posting:
    """A poster with its journal, and how many posts were accepted."""

    def __init__(self, client: AntennaClient, max_pending: int = 5, give_up_after_s: float = 30.0) -> None:
        self.journal = Journal()
        self.accepted = 0
        self.poster = ResultPoster(
            client,
            self.journal,
            max_pending=max_pending,
            give_up_after_s=give_up_after_s,
            accepted=self._count,
        )

    def _count(self) -> None:
        self.accepted += 1

    def reserve(self, client: AntennaClient, job_id: int, count: int) -> list[Task]:
        return self.journal.admit(job_id, client.reserve(job_id, count))


def test_a_redelivered_task_in_hand_is_answered_once_under_its_newest_reply_subject(
    serve: Callable[..., AntennaServer],
) -> None:
    server = serve(visibility_timeout_s=0.5)
    client = AntennaClient(server.base_url, TOKEN)
    job_id, posting = server.add_job(job(*traps(3))), Posting(client)
    tasks = posting.reserve(client, job_id, 4)
    again: list[Task] = []
    while not again:
        time.sleep(0.02)
        again = client.reserve(job_id, 10)
    assert {t.id for t in again} <= {t.id for t in tasks}
    assert posting.journal.admit(job_id, again) == []
    subjects = posting.journal.reply_subjects(job_id, [t.id for t in again])
    assert subjects == [t.reply_subject for t in again]
    posting.poster.submit(job_id, errors_for(tasks))
    posting.poster.drain()
    posting.poster.close()
    state = server.state().jobs[job_id]
    assert (state.errors, state.answered_twice, state.redelivered) == (3, 0, len(again))
    assert len(posting.journal) == 0


def test_results_are_posted_again_until_the_server_takes_them(
    server: AntennaServer, client: AntennaClient
) -> None:
    job_id, posting = server.add_job(job(*traps(4))), Posting(client)
    tasks = posting.reserve(client, job_id, 4)
    server.fault(FaultSpec("503", on=("result",), requests=2))
    posting.poster.submit(job_id, errors_for(tasks[:2]))
    posting.poster.submit(job_id, errors_for(tasks[2:]))
    posting.poster.drain()
    posting.poster.close()
    state = server.state()
    assert (state.errors, state.answered_twice, posting.accepted) == (4, 0, 2)
    assert state.requests["POST result"] == {503: 2, 200: 2}


def test_results_that_were_taken_are_not_posted_again_though_the_answer_was_cut(
    server: AntennaServer, client: AntennaClient
) -> None:
    job_id, posting = server.add_job(job(*traps(2))), Posting(client)
    tasks = posting.reserve(client, job_id, 2)
    server.fault(FaultSpec("cut", on=("result",), requests=1))
    posting.poster.submit(job_id, errors_for(tasks))
    posting.poster.drain()
    posting.poster.close()
    state = server.state()
    assert (state.errors, state.answered_twice, posting.accepted, len(posting.journal)) == (2, 0, 1, 0)


def test_a_connection_outlives_a_refused_call(server: AntennaServer, client: AntennaClient) -> None:
    client.jobs(["moth_binary"])
    before = server.state().connections_total
    server.fault(FaultSpec("503", on=("jobs",), requests=3))
    for _ in range(3):
        with pytest.raises(UnavailableError):
            client.jobs(["moth_binary"])
    client.jobs(["moth_binary"])
    assert server.state().connections_total == before


def test_a_reservation_whose_answer_was_cut_may_be_asked_again(
    server: AntennaServer, client: AntennaClient
) -> None:
    job_id = server.add_job(job(*traps(2)))
    server.fault(FaultSpec("cut", on=("tasks",), requests=1))
    with pytest.raises(UnavailableError, match="IncompleteRead"):
        client.reserve(job_id, 1)
    assert len(client.reserve(job_id, 1)) == 1


def test_a_server_that_comes_back_gets_the_results(server: AntennaServer, client: AntennaClient) -> None:
    job_id, posting = server.add_job(job(*traps(2))), Posting(client)
    tasks = posting.reserve(client, job_id, 2)
    server.fault(FaultSpec("down", seconds=1.0))
    posting.poster.submit(job_id, errors_for(tasks))
    posting.poster.drain()
    posting.poster.close()
    assert server.state().errors == 2


def test_no_more_than_the_allowed_posts_are_pending(server: AntennaServer, client: AntennaClient) -> None:
    job_id, posting = server.add_job(job(*traps(4))), Posting(client, max_pending=2)
    tasks = posting.reserve(client, job_id, 4)
    server.fault(FaultSpec("503", on=("result",)))
    taken: list[int] = []

    def hand_over() -> None:
        for number, task in enumerate(tasks):
            posting.poster.submit(job_id, errors_for([task]))
            taken.append(number)

    thread = threading.Thread(target=hand_over)
    thread.start()
    while len(taken) < 2 or server.state().requests.get("POST result", {}).get(503, 0) < 2:
        time.sleep(0.02)
    assert taken == [0, 1]
    server.clear_faults()
    thread.join(30)
    posting.poster.drain()
    posting.poster.close()
    assert (taken, server.state().errors) == ([0, 1, 2, 3], 4)


@pytest.mark.parametrize(("fault", "expected"), [("401", UnauthorizedError), ("503", UnavailableError)])
def test_a_failure_for_good_reaches_who_waits_and_who_submits(
    server: AntennaServer, client: AntennaClient, fault: Any, expected: type[Exception]
) -> None:
    job_id, posting = server.add_job(job(*traps(1))), Posting(client, give_up_after_s=0.2)
    tasks = posting.reserve(client, job_id, 1)
    server.fault(FaultSpec(fault, on=("result",)))
    posting.poster.submit(job_id, errors_for(tasks))
    with pytest.raises(expected):
        posting.poster.drain()
    with pytest.raises(expected):
        posting.poster.submit(job_id, errors_for(tasks))
    posting.poster.close()
    assert len(posting.journal) == 1


def test_refused_results_are_dropped_and_the_next_ones_go_on(
    server: AntennaServer, client: AntennaClient, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, posting = server.add_job(job(*traps(2))), Posting(client)
    tasks = posting.reserve(client, job_id, 2)
    server.fault(FaultSpec("404", on=("result",), requests=1))
    posting.poster.submit(job_id, errors_for(tasks[:1]))
    posting.poster.submit(job_id, errors_for(tasks[1:]))
    posting.poster.drain()
    posting.poster.close()
    assert (server.state().errors, len(posting.journal)) == (1, 0)
    assert [r.levelname for r in caplog.records if "refused" in r.message] == ["ERROR"]


@pytest.mark.parametrize(
    "spoiled", [{"pipeline": 5}, {"pipeline": "moth_binary", "total_time": float("nan")}]
)
def test_an_answer_that_the_server_cannot_take_does_not_cost_the_others_of_its_post(
    server: AntennaServer, client: AntennaClient, spoiled: dict[str, Any]
) -> None:
    job_id, posting = server.add_job(job(*traps(5))), Posting(client)
    tasks = posting.reserve(client, job_id, 5)
    answers = errors_for(tasks)
    bad = spoiled | {"source_images": [{"id": tasks[3].image_id, "url": "u"}]}
    answers[3] = Answer(tasks[3].id, bad)
    posting.poster.submit(job_id, answers)
    posting.poster.drain()
    posting.poster.close()
    state = server.state()
    assert (state.errors, state.answered_twice, state.wrong_image, len(posting.journal)) == (5, 0, 0, 0)
    said = [a.result["error"] for a in server.answers(job_id) if a.result is not None]
    assert said[3].startswith("the result was refused: POST")
    assert said[:3] + said[4:] == ["tested"] * 4


def test_an_error_that_the_server_cannot_take_is_dropped(
    server: AntennaServer, client: AntennaClient, caplog: pytest.LogCaptureFixture
) -> None:
    job_id, posting = server.add_job(job(*traps(1))), Posting(client)
    (task,) = posting.reserve(client, job_id, 1)
    posting.poster.submit(job_id, [Answer(task.id, {"error": float("nan"), "image_id": task.image_id})])
    posting.poster.drain()
    posting.poster.close()
    assert (server.state().errors, len(posting.journal)) == (0, 0)
    assert [r.levelname for r in caplog.records if "refused" in r.message] == ["ERROR"]


def test_an_unexpected_error_of_the_posting_thread_ends_the_wait(
    server: AntennaServer, client: AntennaClient
) -> None:
    posting = Posting(client)
    posting.poster.submit(1, [Answer("never reserved", {})])
    with pytest.raises(KeyError):
        posting.poster.drain()
    posting.poster.close()


@pytest.mark.parametrize(
    "body",
    [None, [], {"results": 3}, {"results": [{"id": "1", "pipeline_slug": "a"}]}, {"results": [{"id": 1}]}],
)
def test_an_answer_of_another_shape_is_a_bad_answer(body: Any) -> None:
    with pytest.raises(BadAnswerError):
        parse_jobs(body)


def test_ids_of_tasks_may_be_numbers_and_a_reply_subject_may_be_missing() -> None:
    body = {"tasks": [{"id": 5, "image_id": 6, "image_url": "http://x/y"}]}
    assert parse_tasks(body) == [Task("5", "6", "http://x/y", None)]
    with pytest.raises(BadAnswerError):
        parse_tasks({"tasks": [{"id": 5, "image_id": None, "image_url": "x"}]})
