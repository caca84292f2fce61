"""Results are kept until the server takes them, through its failures and through the end of a worker."""

from __future__ import annotations

import logging
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Act, ScriptedServer, answer, half_close, reset, silence
from worker_rig import TOKEN, Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec
from amidiag.target.status_page import StatusPage
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.posting import Answer, ResultPoster
from worker.antenna.schemas import Task, UnauthorizedError, UnavailableError
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost
from worker.loop import Worker

pytestmark = pytest.mark.timeout(120)

Start = Callable[..., Running]
Poster = Callable[..., "Rig"]


class Rig:
    """A poster of results with its journal, on a spool of its own unless `directory` is None."""

    def __init__(self, base_url: str, directory: Path | None, limit_s: float = 30.0, **changes: Any) -> None:
        self.client = AntennaClient(base_url, TOKEN, limit_s=limit_s)
        self.journal = Journal(0.0)
        max_bytes = changes.pop("max_bytes", 10**8)
        self.spool = Spool() if directory is None else Spool(directory, server=base_url, max_bytes=max_bytes)
        self.draining = False
        how = {"max_pending": 5, "give_up_after_s": 60.0} | changes
        self.poster = ResultPoster(
            self.client,
            self.journal,
            accepted=lambda: None,
            spool=self.spool,
            hurry=lambda: self.draining,
            **how,
        )

    def submit(self, job_id: int, *tasks: Task, text: str = "tested") -> None:
        """Answers to tasks that this worker has reserved."""
        self.journal.admit(job_id, tasks)
        self.poster.submit(job_id, [error_for(task, text) for task in tasks])

    def finish(self) -> None:
        self.poster.drain()
        self.close()

    def close(self) -> None:
        self.poster.close()
        self.client.close()


def error_for(task: Task, text: str = "tested") -> Answer:
    return Answer(task.id, {"error": text, "image_id": None})


def task(number: int) -> Task:
    return Task(f"task-{number}", f"image-{number}", "http://images/x", f"subject-{number}")


def on_disk(directory: Path) -> int:
    return len(list(directory.rglob("*.json")))


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def rig(spool: Path) -> Iterator[Poster]:
    rigs: list[Rig] = []

    def make(base_url: str, directory: Path | None = spool, **changes: Any) -> Rig:
        rigs.append(Rig(base_url, directory, **changes))
        return rigs[-1]

    yield make
    for one in rigs:
        one.close()


BUSY = answer("503 Service Unavailable", b"", "Retry-After: 0")


def test_what_is_not_taken_goes_to_disk_and_leaves_it_in_its_order_once_it_is(
    rig: Poster, spool: Path
) -> None:
    with ScriptedServer(*[BUSY] * 3) as server:
        here = rig(server.base_url, max_pending=2)
        server.script.extendleft([lambda sock: bool(until(lambda: on_disk(spool) >= 1)) or BUSY(sock)])
        server.script.extendleft([BUSY])
        for number in range(8):
            here.submit(1, task(number))
        here.finish()
        said = [r["reply_subject"] for body in server.bodies() for r in body["results"]]
        assert list(dict.fromkeys(said)) == [f"subject-{n}" for n in range(8)]
        assert said[-7:] == [f"subject-{n}" for n in range(1, 8)]
        assert (on_disk(spool), len(here.journal)) == (0, 0)


def test_memory_holds_no_more_posts_than_it_may_and_nobody_waits_for_the_server(
    server: AntennaServer, rig: Poster, spool: Path
) -> None:
    job_id = server.add_job(job(*traps(9)))
    here = rig(server.base_url, max_pending=2)
    tasks = here.client.reserve(job_id, 9)
    server.fault(FaultSpec("503", on=("result",)))
    assert not here.poster.failing
    for one in tasks:
        here.submit(job_id, one)
    until(lambda: here.poster.failing and on_disk(spool) == 9)
    until(lambda: sum(post.answers is not None for post in here.poster._pending) <= 2)
    server.clear_faults()
    here.finish()
    state = server.state()
    assert (state.errors, state.answered_twice, on_disk(spool), here.poster.failing) == (9, 0, 0, False)


@pytest.mark.parametrize("act", [silence, reset, half_close])
def test_results_that_were_not_acknowledged_are_posted_again_as_they_were(
    rig: Poster, spool: Path, act: Act
) -> None:
    with ScriptedServer(act, act) as server:
        here = rig(server.base_url, limit_s=0.2)
        here.submit(1, task(1), task(2))
        here.finish()
        bodies = server.bodies()
        assert len(bodies) == 3
        assert all(body == bodies[0] for body in bodies)
        assert on_disk(spool) == 0


def test_a_server_that_is_only_slow_gets_more_time(rig: Poster) -> None:
    def slow(sock: Any) -> bool:
        time.sleep(0.5)
        return answer()(sock)

    with ScriptedServer(*[slow] * 8) as server:
        here = rig(server.base_url, limit_s=0.2)
        here.submit(1, task(1))
        here.finish()
        assert 2 <= len(server.requests) <= 8


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
def test_a_server_that_asks_for_a_pause_gets_it(rig: Poster, status: str) -> None:
    with ScriptedServer(answer(status, b"", "Retry-After: 1")) as server:
        here = rig(server.base_url)
        here.submit(1, task(1))
        here.finish()
        first, second = server.requests
        assert second.at - first.at >= 1


@pytest.mark.timeout(45)
def test_a_pause_beyond_the_time_for_draining_is_not_waited_for(rig: Poster, spool: Path) -> None:
    with ScriptedServer(answer("429 Too Many Requests", b"", "Retry-After: 100")) as server:
        here = rig(server.base_url, give_up_after_s=600.0, hurry_s=60.0)
        here.submit(1, task(1))
        until(lambda: on_disk(spool))
        here.draining = True
        here.finish()
        assert (len(server.requests), on_disk(spool)) == (1, 1)


def test_a_worker_that_gives_up_leaves_everything_to_the_next_which_posts_it_first(
    server: AntennaServer, rig: Poster, spool: Path
) -> None:
    job_id = server.add_job(job(*traps(5)))
    here = rig(server.base_url, max_pending=2, give_up_after_s=0.4)
    tasks = here.client.reserve(job_id, 5)
    server.fault(FaultSpec("503", on=("result",)))
    for one in tasks[:4]:
        here.submit(job_id, one)
    with pytest.raises(UnavailableError):
        here.poster.drain()
    # Worked on meanwhile: too late for this worker, but not lost.
    with pytest.raises(UnavailableError):
        here.submit(job_id, tasks[4])
    here.close()
    assert on_disk(spool) == 5
    server.clear_faults()
    after = rig(server.base_url)
    assert after.poster.take_left() == 5
    after.finish()
    state = server.state()
    assert (state.errors, state.answered_twice, state.unknown_replies, on_disk(spool)) == (5, 0, 0, 0)


def test_a_task_whose_answer_waits_is_neither_given_up_nor_worked_on_again(
    serve: Callable[..., AntennaServer], rig: Poster
) -> None:
    server = serve(visibility_timeout_s=0.5)
    job_id = server.add_job(job(*traps(3)))
    here = rig(server.base_url)
    tasks = here.client.reserve(job_id, 3)
    server.fault(FaultSpec("503", on=("result",)))
    here.submit(job_id, *tasks)
    until(lambda: here.poster.failing)
    assert here.journal.release(job_id) == []
    again: list[Task] = []
    while not again:
        again = here.client.reserve(job_id, 10)
    assert here.journal.admit(job_id, again) == []
    server.clear_faults()
    here.finish()
    state = server.state()
    assert (state.errors, state.answered_twice, state.redelivered) == (3, 0, len(again))


def test_what_an_earlier_worker_answered_is_not_worked_on_by_the_next(
    serve: Callable[..., AntennaServer], rig: Poster
) -> None:
    server = serve(visibility_timeout_s=0.5)
    job_id = server.add_job(job(*traps(3)))
    here = rig(server.base_url)
    server.fault(FaultSpec("503", on=("result",)))
    here.submit(job_id, *here.client.reserve(job_id, 3), text="first")
    until(lambda: here.poster.failing)
    here.close()
    after = rig(server.base_url)
    after.poster.take_left()
    again: list[Task] = []
    while not again:
        again = after.client.reserve(job_id, 10)
    assert after.journal.admit(job_id, again) == []
    subjects = after.journal.reply_subjects(job_id, [t.id for t in again])
    assert subjects == [t.reply_subject for t in again]
    server.clear_faults()
    after.finish()
    state = server.state()
    assert (state.errors, state.answered_twice) == (3, 0)
    # Accepted late: it may be in the queue once more.
    assert after.journal.admit(job_id, again) == []


def test_of_two_answers_that_were_left_to_one_task_the_older_is_posted(rig: Poster) -> None:
    with ScriptedServer(*[BUSY] * 2) as server:
        for text, tasks in (("first", (1, 2)), ("second", (2, 3))):
            here = rig(server.base_url, give_up_after_s=0.0)
            here.submit(1, *(task(n) for n in tasks), text=text)
            with pytest.raises(UnavailableError):
                here.poster.drain()
            here.close()
        server.requests.clear()
        after = rig(server.base_url)
        assert after.poster.take_left() == 3
        after.finish()
        posted = [(r["reply_subject"], r["result"]["error"]) for b in server.bodies() for r in b["results"]]
        assert posted == [("subject-1", "first"), ("subject-2", "first"), ("subject-3", "second")]


def test_a_full_spool_makes_who_submits_wait_until_the_server_takes_something(
    rig: Poster, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(*[answer("503 Busy", b"")] * 3) as server:
        here = rig(server.base_url, max_pending=2, max_bytes=300_000)
        taken: list[int] = []

        def hand_over() -> None:
            for number in range(7):
                here.submit(1, task(number), text="x" * 100_000)
                taken.append(number)

        thread = threading.Thread(target=hand_over)
        thread.start()
        # In memory, or on disk as far as there is room.
        until(lambda: len(server.requests) == 3)
        assert len(taken) <= 5
        thread.join(60)
        here.finish()
        assert taken == list(range(7))
        posted = {r["reply_subject"] for body in server.bodies() for r in body["results"]}
        assert posted == {f"subject-{n}" for n in range(7)}
        assert on_disk(spool) == 0


@pytest.mark.parametrize("with_spool", [True, False])
def test_who_is_told_to_drain_waits_no_longer_than_it_may(
    rig: Poster, spool: Path, with_spool: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(*[answer("503 Busy", b"")] * 100) as server:
        here = rig(server.base_url, spool if with_spool else None, max_pending=1, hurry_s=0.5)
        here.submit(1, task(1), task(2))
        until(lambda: here.poster.failing)
        here.draining = True
        # Nor for room, where there is none.
        here.submit(1, task(3))
        here.finish()
        said = [r.message for r in caplog.records if "results of 3 tasks" in r.message]
        assert len(said) == 1
        assert (str(spool) if with_spool else "left to the server's redelivery") in said[0]
        assert on_disk(spool) == (2 if with_spool else 0)


def test_a_worker_that_ends_by_a_fault_of_its_own_does_not_wait_for_the_server_for_long(
    rig: Poster, spool: Path
) -> None:
    with ScriptedServer(*[answer("503 Busy", b"")] * 100) as server:
        here = rig(server.base_url, give_up_after_s=600.0, hurry_s=0.3)
        here.submit(1, task(1))
        until(lambda: here.poster.failing)
        here.poster.drain(hurried=True)
        here.close()
        assert on_disk(spool) == 1


def test_a_worker_that_hangs_has_its_results_kept_by_another_thread(rig: Poster, spool: Path) -> None:
    with ScriptedServer(silence) as server:
        here = rig(server.base_url)
        here.submit(1, task(1))
        here.submit(1, task(2))
        until(lambda: server.requests)
        # As where the main thread hangs while it holds the lock.
        with here.poster._changed:
            thread = threading.Thread(target=here.poster.keep)
            thread.start()
            thread.join(30)
            assert not thread.is_alive()
        assert on_disk(spool) == 2
        server.__exit__(None, None, None)
        here.draining = True


@pytest.mark.parametrize(
    ("said", "others"),
    [
        ("500 Internal Server Error", 9),
        # What a proxy says where the server behind it dies of a post, and where it takes offence itself.
        ("502 Bad Gateway", 16),
        ("403 Forbidden", 16),
    ],
)
def test_a_post_at_which_the_server_itself_fails_costs_neither_the_others_nor_the_worker(
    rig: Poster, monkeypatch: pytest.MonkeyPatch, said: str, others: int
) -> None:
    """An error again and again, while others are taken, is this one's: split until the answer to blame is found."""
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)

    def is_bad(body: Any) -> bool:
        return any("source_images" in one["result"] for one in body["results"])

    def judge(sock: Any) -> bool:
        bad = is_bad(server.requests[-1].body)
        return (answer(said, b"<html></html>") if bad else answer())(sock)

    with ScriptedServer(*[judge] * 200) as server:
        here = rig(server.base_url)
        here.journal.admit(1, [task(n) for n in range(3)])
        bad = {"pipeline": "p", "source_images": [{"id": "image-1", "url": "u"}]}
        here.poster.submit(1, [error_for(task(0)), Answer("task-1", bad), error_for(task(2))])
        # It does not hold the worker up,
        here.poster.drain()
        assert not here.poster.failing
        # and the next posts show whose fault it is.
        for number in range(3, 3 + others):
            here.submit(1, task(number))
            here.poster.drain()
            assert not here.poster.failing
        here.finish()
        taken = [one for body in server.bodies() if not is_bad(body) for one in body["results"]]
        texts = {one["reply_subject"]: one["result"]["error"] for one in taken}
        assert texts.keys() == {f"subject-{n}" for n in range(3 + others)}
        assert len(taken) == 3 + others
        assert texts.pop("subject-1").startswith("the result was refused: POST")
        assert set(texts.values()) == {"tested"}


def test_a_post_at_which_the_connection_always_fails_keeps_no_other_waiting_and_is_kept(
    rig: Poster, spool: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)

    def judge(sock: Any) -> bool:
        bad = any(one["reply_subject"] == "subject-0" for one in server.requests[-1].body["results"])
        return (reset if bad else answer())(sock)

    with ScriptedServer(*[judge] * 500) as server:
        here = rig(server.base_url)
        for number in range(20):
            here.submit(1, task(number))
            here.poster.drain()
        here.finish()
        # Not with each of the others.
        assert sum("posting again" in r.message for r in caplog.records) <= 5
        asked = [one["reply_subject"] for body in server.bodies() for one in body["results"]]
        assert set(asked) == {f"subject-{n}" for n in range(20)}
        assert all(asked.count(f"subject-{n}") == 1 for n in range(1, 20))
        assert on_disk(spool) == 1


def test_a_post_that_is_never_answered_keeps_the_others_waiting_for_one_call_at_a_time(
    rig: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)
    limits: list[float | None] = []
    with ScriptedServer(*[silence] * 100) as server:
        here = rig(server.base_url, limit_s=0.1)
        post = here.client.post_results

        def seen(job_id: int, results: Any, limit_s: float | None = None) -> int | None:
            limits.append(limit_s)
            return post(job_id, results, limit_s)

        monkeypatch.setattr(here.client, "post_results", seen)
        here.submit(1, task(0))
        until(lambda: len(limits) >= 7)
    assert limits[:7] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1])


def test_why_results_are_not_taken_is_said_again_when_it_changes(
    rig: Poster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)
    full, page = answer("507 Insufficient Storage", b""), answer("404 Not Found", b"404 page not found")
    with ScriptedServer(BUSY, full, BUSY, page, full, BUSY) as server:
        here = rig(server.base_url)
        here.submit(1, task(1))
        here.finish()
    said = [re.sub(r".*result/: ", "", r.message) for r in caplog.records if "posting again" in r.message]
    assert [text[:3] for text in said] == ["503", "507", "404"]


def test_a_server_that_fails_at_everything_turns_no_result_into_an_error(
    rig: Poster, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("worker.antenna.retrying.LONGEST_PAUSE_S", 0.1)
    broken = answer("500 Internal Server Error", b"")
    with ScriptedServer(*[broken] * 20) as server:
        here = rig(server.base_url)
        here.submit(1, task(1), task(2))
        here.poster.drain()
        here.submit(1, task(3))
        assert here.poster.failing or len(server.requests) > 20
        here.finish()
        posted = {
            one["reply_subject"]: one["result"]["error"] for b in server.bodies()[20:] for one in b["results"]
        }
        assert posted == {f"subject-{n}": "tested" for n in (1, 2, 3)}
        assert on_disk(spool) == 0


def test_results_left_by_a_worker_with_another_token_end_nobody_and_stay(
    rig: Poster, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(BUSY, answer("403 Forbidden", b"")) as server:
        here = rig(server.base_url, give_up_after_s=0.0)
        here.submit(1, task(1))
        with pytest.raises(UnavailableError):
            here.poster.drain()
        here.close()
        after = rig(server.base_url)
        assert after.poster.take_left() == 1
        after.poster.drain()
        after.submit(1, task(2))
        after.finish()
        assert on_disk(spool) == 1
        assert [r.levelno for r in caplog.records if "they stay there" in r.message] == [logging.WARNING]
        # Its own answers refused are another matter.
        server.script.append(answer("403 Forbidden", b""))
        last = rig(server.base_url)
        last.submit(1, task(3))
        with pytest.raises(UnauthorizedError):
            last.poster.drain()
        last.close()
        assert on_disk(spool) == 2


def test_what_became_unreadable_on_disk_is_left_to_redelivery_and_said(
    rig: Poster, spool: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(answer("429 Busy", b"", "Retry-After: 1")) as server:
        here = rig(server.base_url, max_pending=1)
        here.submit(1, task(1))
        until(lambda: here.poster.failing)
        here.submit(1, task(2))
        until(lambda: on_disk(spool) == 2)
        _, second = sorted(spool.rglob("*.json"))
        second.write_bytes(b"{")
        here.finish()
        assert [r["reply_subject"] for b in server.bodies() for r in b["results"]] == ["subject-1"] * 2
        assert len(here.journal) == 0
        assert "set aside" in caplog.text


POSTS_AND_DIES = """
import os, sys, time
from pathlib import Path
from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.posting import Answer, ResultPoster
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost
from worker.loop import Worker

base_url, token, directory, job_id = sys.argv[1:]
client, journal = AntennaClient(base_url, token), Journal()
spool = Spool(Path(directory), server=base_url, max_bytes=10**8)
poster = ResultPoster(
    client, journal, max_pending=2, give_up_after_s=60, accepted=lambda: None, spool=spool
)
print("reserves", flush=True)
tasks = journal.admit(int(job_id), client.reserve(int(job_id), 6))
for task in tasks:
    poster.submit(int(job_id), [Answer(task.id, {"error": "tested", "image_id": task.image_id})])
time.sleep(600)
"""


def test_a_worker_killed_between_keeping_and_posting_loses_nothing(
    server: AntennaServer, rig: Poster, spool: Path
) -> None:
    job_id = server.add_job(job(*traps(6)))
    server.fault(FaultSpec("503", on=("result",)))
    arguments = [server.base_url, TOKEN, str(spool), str(job_id)]
    with subprocess.Popen([sys.executable, "-c", POSTS_AND_DIES, *arguments]) as process:
        until(lambda: on_disk(spool) == 6)
        bystander = rig(server.base_url)
        assert bystander.poster.take_left() == 0
        process.kill()
    server.clear_faults()
    after = rig(server.base_url)
    assert after.poster.take_left() == 6
    after.finish()
    state = server.state()
    assert (state.errors, state.answered_twice, state.wrong_image, on_disk(spool)) == (6, 0, 0, 0)


def test_told_to_drain_while_the_server_takes_nothing_a_worker_ends_and_the_next_one_posts_first(
    server: AntennaServer, start: Start, spool: Path
) -> None:
    job_id = server.add_job(job(*traps(4)))
    server.fault(FaultSpec("503", on=("result",)))
    settings = {
        "AMI_WORKER_DRAIN_LIMIT_S": 0.3,
        "AMI_PIPELINES": "moth_binary",
        "AMI_ANTENNA_API_BATCH_SIZE": 2,
    }
    first = start("run", server=server, **settings)
    until(lambda: server.state().requests.get("POST result", {}).get(503, 0) >= 2 or first.poll() is not None)
    first.terminate()
    code, _, err = ended(first)
    kept = on_disk(spool)
    assert code == 0, err
    assert kept >= 1
    assert f"kept in {spool}" in err
    server.clear_faults()
    # The next worker is held in its first poll, and by then has posted.
    server.hold_polls()
    answered = server.state().answered
    second = start("run", "--max-polls", "2", server=server, **settings)
    assert server.wait_poll(60)
    assert server.state().answered > answered
    assert on_disk(spool) == 0
    server.free_polls()
    code, _, err = ended(second)
    assert code == 0, err
    state = server.state().jobs[job_id]
    assert (state.answered, state.errors, state.lost, state.answered_twice) == (4, 0, 0, 0)


def test_nobody_reserves_more_while_the_server_takes_no_results(
    server: AntennaServer, worker: Callable[..., Worker], spool: Path
) -> None:
    job_id = server.add_job(job(*traps(12)))
    server.fault(FaultSpec("503", on=("result",)))
    settings = {
        "AMI_ANTENNA_UNREACHABLE_LIMIT_S": 1.5,
        "AMI_PIPELINES": "moth_binary",
        "AMI_ANTENNA_API_BATCH_SIZE": 1,
        "AMI_AUTOTUNE": "false",
        "AMI_WORKER_SPOOL_DIR": spool,
    }
    with pytest.raises(UnavailableError):
        worker(server, **settings).run()
    state = server.state()
    assert (state.waiting > 0, state.reserved) == (True, on_disk(spool))
    server.clear_faults()
    worker(server, **settings).run(max_polls=1)
    state = server.state().jobs[job_id]
    assert (state.answered, state.errors, state.answered_twice) == (12, 0, 0)


def test_no_wait_of_a_poster_that_never_posts_anything(rig: Poster) -> None:
    here = rig("http://127.0.0.1:1")
    here.poster.drain()
    assert here.poster.take_left() == 0
    here.poster.keep()
    assert not here.poster.failing
    assert math.isinf(here.poster._hurry.left_s())


def test_to_post_much_is_no_hang_as_long_as_the_server_takes_it_and_one_that_takes_nothing_is_seen(
    rig: Poster, spool: Path, worker: Callable[..., Worker], page: StatusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.antenna.posting._TICK_S", 0.01)
    with ScriptedServer(BUSY) as server:
        here = rig(server.base_url, max_pending=1, give_up_after_s=0.0)
        here.submit(1, task(0))
        until(lambda: on_disk(spool) == 1)
        for number in range(1, 6):
            here.spool.keep(
                KeptPost(1, time.time(), (KeptAnswer(f"task-{number}", None, {"error": "tested"}),))
            )
        here.close()

        def slow(sock: Any) -> bool:
            time.sleep(0.1)
            return answer()(sock)

        healthy: list[bool] = []

        def seen(sock: Any) -> bool:
            until(lambda: not (page.read() or {})["health"]["ok"])
            healthy.append(False)
            return slow(sock)

        server.script.extend([slow, BUSY, seen, *[slow] * 4, answer(body=b'{"results": []}')])
        after = worker(server, AMI_WORKER_SPOOL_DIR=spool)
        marks: list[str] = []
        monkeypatch.setattr(after._watchdog, "at", lambda what, limit_s=None: marks.append(what))
        after.run(max_polls=1)
        assert on_disk(spool) == 0
        assert marks.count("posting results") >= 4
        assert healthy == [False]
        assert (page.read() or {})["health"]["ok"]


def test_results_that_were_left_and_that_the_server_fails_at_keep_no_worker_from_its_work(
    rig: Poster, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several that none of them can do without the others: what is new goes first, and shows whose fault it is."""
    monkeypatch.setattr("worker.antenna.retrying.FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr("worker.antenna.retrying.LONGEST_PAUSE_S", 0.05)

    def judge(sock: Any) -> bool:
        subjects = {one["reply_subject"] for one in server.requests[-1].body["results"]}
        return (reset if subjects & {"subject-0", "subject-1"} else answer())(sock)

    with ScriptedServer(*[judge] * 10_000) as server:
        here = rig(server.base_url)
        for number in range(2):
            subject = f"subject-{number}"
            here.spool.keep(
                KeptPost(1, time.time(), (KeptAnswer(f"task-{number}", subject, {"error": "x"}),))
            )
        here.close()
        after = rig(server.base_url)
        assert after.poster.take_left() == 2
        for number in range(2, 6):
            after.poster.drain()
            assert not after.poster.failing
            after.submit(1, task(number))
        after.finish()
        asked = [one["reply_subject"] for body in server.bodies() for one in body["results"]]
        assert [asked.count(f"subject-{n}") for n in range(2, 6)] == [1] * 4
        assert on_disk(spool) == 2
