"""What is taken from the server and when, and what becomes of what a dead loader held."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from worker_rig import job, settings_for, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal, describe
from worker.antenna.schemas import BadAnswerError, Task, UnauthorizedError, UnavailableError
from worker.draining import Drain
from worker.guard.budget import Budget
from worker.guard.tuner import Tuning
from worker.ingest.batch import Batch, BatchRequest, LoaderReport
from worker.ingest.pace import Pace
from worker.ingest.source import JobSource

FIXED = {"AMI_AUTOTUNE": "false", "AMI_MEMORY_BUDGET": "0"}


@pytest.fixture
def client(server: AntennaServer) -> Iterator[AntennaClient]:
    client = AntennaClient(server.base_url, server.config.token)
    yield client
    client.close()


def source_for(
    server: AntennaServer,
    client: AntennaClient,
    images: int,
    *,
    visibility_s: float = 0.0,
    journal: Journal | None = None,
    pace: Pace | None = None,
    drain: Drain | None = None,
    first_task: Callable[[], None] = lambda: None,
    **changes: object,
) -> JobSource:
    job_id = server.add_job(job(*traps(images)))
    settings = settings_for(server, **FIXED | {"AMI_ANTENNA_API_BATCH_SIZE": 4} | changes)
    return JobSource(
        client,
        journal or Journal(),
        Tuning(settings, Budget.of(settings)).for_job(job_id, "moth_binary"),
        pace or Pace(visibility_s),
        job_id=job_id,
        drain=drain or Drain(),
        first_task=first_task,
    )


def ids(request: BatchRequest | None) -> list[str]:
    return [] if request is None else [task.id for task in request.tasks]


def arrive(source: JobSource, request: BatchRequest, deferred: tuple[Task, ...] = ()) -> None:
    done = tuple(task for task in request.tasks if task not in deferred)
    shapes, offsets = ((1, 1),) * len(done), tuple(range(0, 3 * len(done), 3))
    pixels = torch.zeros(3 * len(done), dtype=torch.uint8)
    source.arrived(Batch(pixels, shapes, offsets, done, (), deferred, LoaderReport(1)))


def test_a_job_without_tasks_is_seen_before_anything_is_built(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 0)
    assert not source.look()
    assert source.next_request() is None


def test_a_job_is_reserved_batch_by_batch_until_nothing_is_left(
    server: AntennaServer, client: AntennaClient
) -> None:
    first: list[str] = []
    source = source_for(server, client, 10, first_task=lambda: first.append("!"))
    assert [len(ids(source.next_request())) for _ in range(4)] == [4, 4, 2, 0]
    assert (first, source.reserved, source.error) == (["!"], 10, None)


def test_a_drain_ends_the_reservation(server: AntennaServer, client: AntennaClient) -> None:
    drain = Drain()
    source = source_for(server, client, 10, drain=drain)
    assert len(ids(source.next_request())) == 4
    drain.requested = True
    assert source.next_request() is None
    assert server.state().reserved == 4


@pytest.mark.parametrize(
    ("fault", "expected"), [("503", UnavailableError), ("401", UnauthorizedError), ("404", BadAnswerError)]
)
def test_a_failed_reservation_ends_the_job_and_is_told(
    server: AntennaServer, client: AntennaClient, fault: Any, expected: type[Exception]
) -> None:
    source = source_for(server, client, 10)
    assert len(ids(source.next_request())) == 4
    server.fault(FaultSpec(fault, on=("tasks",), requests=1))
    assert source.next_request() is None
    assert isinstance(source.error, expected)
    assert source.reserved == 4


def test_no_more_requests_are_in_flight_than_prefetch_times_loaders(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 20, AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR=2)
    assert source.look()
    first, second = source.next_request(), source.next_request()
    assert first is not None and second is not None
    assert source.next_request() is None
    arrive(source, first)
    assert len(ids(source.next_request())) == 4
    assert server.state().reserved == 12


def test_no_more_is_taken_than_can_be_answered_in_the_visibility_time(
    server: AntennaServer, client: AntennaClient
) -> None:
    pace = Pace(30.0)
    pace.finished(1, 2.0)  # half an image in a second: 9 in the 60 % of the time that are planned with
    source = source_for(server, client, 40, pace=pace)
    taken = [ids(source.next_request()) for _ in range(4)]
    assert [len(t) for t in taken] == [4, 4, 1, 0]
    assert server.state().reserved == 9


def test_before_the_speed_is_known_few_are_taken_and_one_always(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 40, visibility_s=30.0, AMI_ANTENNA_API_BATCH_SIZE=24)
    assert len(ids(source.next_request())) == 8
    slow = Pace(30.0)
    slow.finished(1, 1000.0)
    assert len(ids(source_for(server, client, 4, pace=slow).next_request())) == 1


def test_without_a_visibility_time_as_many_are_taken_as_the_public_worker_takes(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 40, AMI_ANTENNA_API_BATCH_SIZE=8)
    assert [len(ids(source.next_request())) for _ in range(5)] == [8, 8, 8, 8, 0]


def test_what_did_not_fit_into_a_batch_is_first_in_the_next(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 6, AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR=1)
    first = source.next_request()
    assert first is not None
    arrive(source, first, deferred=first.tasks[1:])
    assert ids(source.next_request())[:3] == ids(first)[1:]


def test_the_tasks_of_a_dead_loader_are_loaded_again_and_the_suspects_alone(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 6, AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR=2)
    first, second = source.next_request(), source.next_request()
    assert source.loader_died(0) == ()
    again = []
    while (request := source.next_request()) is not None:
        again.append(ids(request))
        arrive(source, request)
    assert again == [*([one] for one in ids(first)), ids(second)]
    assert server.state().reserved == 6


def test_a_task_that_was_alone_twice_when_a_loader_died_is_given_up(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 2)
    source.next_request()
    assert source.loader_died(0) == ()
    killer = source.next_request()
    assert killer is not None
    assert source.loader_died(0) == ()
    # The other one is tried before the suspect is tried again.
    other = source.next_request()
    assert other is not None and ids(other) != ids(killer)
    arrive(source, other)
    assert ids(source.next_request()) == ids(killer)
    assert source.loader_died(0) == killer.tasks
    assert source.next_request() is None


def test_where_no_request_is_to_blame_none_is_suspected(server: AntennaServer, client: AntennaClient) -> None:
    source = source_for(server, client, 4, AMI_ANTENNA_API_BATCH_SIZE=1)
    for _ in range(3):
        first = source.next_request()
        assert source.loader_died(None) == ()
        assert ids(source.next_request()) == ids(first)
        source.loader_died(None)


def test_the_request_with_which_a_process_died_is_suspected_and_no_older_one(
    server: AntennaServer, client: AntennaClient
) -> None:
    source = source_for(server, client, 4, AMI_ANTENNA_API_BATCH_SIZE=2, AMI_NUM_WORKERS=2)
    innocent, guilty = source.next_request(), source.next_request()
    source.loader_died(1)
    assert [ids(source.next_request()) for _ in range(3)] == [[i] for i in ids(guilty)] + [ids(innocent)]


def test_batches_that_come_in_pairs_do_not_make_the_speed_look_higher() -> None:
    pace = Pace(30.0)
    for _ in range(20):
        pace.finished(24, 20.0)
        pace.finished(24, 0.1)
    assert pace.per_second == pytest.approx(48 / 20.1, rel=0.2)
    pace.finished(0, 0.001)
    assert pace.per_second == pytest.approx(48 / 20.1, rel=0.2)


def test_what_has_no_time_left_is_left_to_redelivery(server: AntennaServer, client: AntennaClient) -> None:
    journal = Journal()
    source = source_for(server, client, 3, visibility_s=0.2, journal=journal)
    source.look()
    assert source.next_request() is not None
    source.loader_died(0)
    assert source.leave_overdue() == 0
    time.sleep(0.25)
    assert source.leave_overdue() == 1
    assert len(journal) == 0


def task(number: int, reply: str = "r") -> Task:
    return Task(str(number), str(number), "http://127.0.0.1/a", reply)


def test_a_task_that_comes_again_in_hand_is_answered_under_its_new_subject() -> None:
    journal = Journal()
    assert journal.admit(1, [task(1, "old")]) == [task(1, "old")]
    assert journal.admit(1, [task(1, "new")]) == []
    assert journal.reply_subjects(1, ["1"]) == ["new"]


def test_a_task_whose_late_answer_was_accepted_is_not_worked_on_again() -> None:
    journal = Journal()
    journal.admit(1, [task(1)])
    journal.answered(1, ["1"])
    assert journal.admit(1, [task(1, "again"), task(2)]) == [task(2)]
    assert journal.admit(2, [task(1)]) == [task(1)]
    assert len(journal) == 2


def test_what_is_released_may_come_again_and_is_named() -> None:
    journal = Journal()
    journal.admit(7, [task(n) for n in range(3)])
    assert [e.task.id for e in journal.release(7, [task(1)])] == ["1"]
    assert describe(journal.release(7)) == "2 tasks (0, 2)"
    assert journal.admit(7, [task(1)]) == [task(1)]
