"""The task queue behind `POST /jobs/{id}/tasks/`: reservation, visibility time, redelivery, loss.

Behaves as the NATS JetStream pull consumer of the real server (ANTENNA_API.md): reserving a task
does not remove it, only an answer does; what is not answered in the visibility time is delivered
again under a new reply subject, at most `max_deliver` times in all, and is lost after that.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from amidiag.soak.antenna.words import Delivery as Told
from amidiag.soak.antenna.words import Result, TaskCounts, TaskStory

_Stage = Literal["waiting", "reserved", "results", "errors", "lost"]
_Count = Literal[_Stage, "total", "redelivered", "answered_twice", "late", "wrong_image"]


class UnknownJobError(LookupError):
    """No job has this id."""

    def __init__(self, job_id: int) -> None:
        super().__init__(f"no job has the id {job_id}")


class Delivery(NamedTuple):
    """A task handed out. `reply_subject` is new for each delivery; `number` counts from 1."""

    task_id: str
    image_id: str
    reply_subject: str
    number: int


class TaskAnswer(NamedTuple):
    """A task's image, its first answer (None: none yet), and how many answers came."""

    image_id: str
    result: Result | None
    times: int


@dataclass(slots=True, eq=False)
class _Task:
    job: _Job
    number: int
    image_id: str
    stage: _Stage = "waiting"
    deliveries: int = 0
    result: Result | None = None
    answers: int = 0
    differing: int = 0
    story: list[_Handed] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class _Handed:
    """A delivery as `words.Delivery` tells it."""

    at: float
    until: float | None = None
    unheard: bool = False


@dataclass(slots=True, eq=False)
class _Job:
    job_id: int
    counts: dict[_Count, int] = field(default_factory=dict)
    tasks: list[_Task] = field(default_factory=list)
    fresh: deque[_Task] = field(default_factory=deque)
    again: deque[_Task] = field(default_factory=deque)


class TaskQueue:
    """All jobs' tasks. Thread-safe; time passes only by `clock` (seconds, monotonic).

    Reservations run out lazily, at the start of the next call, so no thread is needed, and a call
    costs by what it touches, not by how many jobs there have been.
    """

    def __init__(
        self, visibility_timeout_s: float, max_deliver: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._visibility_timeout_s = visibility_timeout_s
        self._max_deliver = max_deliver
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[int, _Job] = {}
        self._incomplete: dict[int, None] = {}
        self._totals: dict[_Count, int] = {}
        self._deliveries = 0
        self._unknown_replies = 0
        self._by_reply: dict[str, tuple[_Task, float, _Handed]] = {}
        self._deadlines: list[tuple[float, int, _Task]] = []

    def add_job(self, job_id: int, image_ids: Sequence[str]) -> None:
        """Adds one task per image. Raises ValueError for a job id already there."""
        with self._lock:
            if job_id in self._jobs:
                raise ValueError(f"there is a job {job_id} already")
            job = self._jobs[job_id] = _Job(job_id)
            job.tasks = [_Task(job, number, image_id) for number, image_id in enumerate(image_ids, start=1)]
            job.fresh.extend(job.tasks)
            self._count(job, "total", len(job.tasks))
            self._count(job, "waiting", len(job.tasks))
            if job.tasks:
                self._incomplete[job_id] = None

    def reserve(self, job_id: int, at_most: int) -> list[Delivery]:
        """Hands out up to `at_most` tasks, those delivered before first. Raises UnknownJobError."""
        with self._lock:
            now = self._expire()
            job = self._job(job_id)
            deliveries: list[Delivery] = []
            for line in (job.again, job.fresh):
                while line and len(deliveries) < at_most:
                    task = line.popleft()
                    # A late answer may have come while the task waited for its next delivery.
                    if task.stage == "waiting":
                        deliveries.append(self._deliver(task, now))
            return deliveries

    def answer(self, job_id: int, reply_subject: str, result: Result) -> bool:
        """Saves an answer, also a late one to an earlier delivery; only a task's first answer is kept.

        Returns False where this reply subject was never handed out for this job. Raises
        UnknownJobError.
        """
        with self._lock:
            now = self._expire()
            job = self._job(job_id)
            found = self._by_reply.get(reply_subject)
            if found is None or found[0].job is not job:
                self._unknown_replies += 1
                return False
            task, deadline, _ = found
            task.answers += 1
            if not _is_about(result, task.image_id):
                self._count(job, "wrong_image")
            if task.answers > 1:
                self._count(job, "answered_twice")
                task.differing += result != task.result
                return True
            task.result = result
            if now >= deadline:
                self._count(job, "late")
            self._move(task, "errors" if "error" in result else "results")
            return True

    def is_complete(self, job_id: int) -> bool:
        """True where every task is answered or lost. Raises UnknownJobError."""
        with self._lock:
            self._expire()
            return self._job(job_id).job_id not in self._incomplete

    def incomplete(self) -> list[int]:
        """The ids of the jobs with a task neither answered nor lost, oldest first."""
        with self._lock:
            self._expire()
            return list(self._incomplete)

    def counts(self, job_id: int) -> TaskCounts:
        """The tasks of one job by what became of them. Raises UnknownJobError."""
        with self._lock:
            self._expire()
            return TaskCounts(**self._job(job_id).counts)

    def totals(self) -> TaskCounts:
        """The tasks of all jobs by what became of them."""
        with self._lock:
            self._expire()
            return TaskCounts(**self._totals)

    def unknown_replies(self) -> int:
        """How many answers came under a reply subject that was never handed out for their job."""
        with self._lock:
            return self._unknown_replies

    def answers(self, job_id: int) -> list[TaskAnswer]:
        """What was answered for each task of a job, in the job's order. Raises UnknownJobError."""
        with self._lock:
            return [TaskAnswer(task.image_id, task.result, task.answers) for task in self._job(job_id).tasks]

    def unheard(self, reply_subjects: Sequence[str]) -> None:
        """Notes that the answer which handed these out did not reach the worker."""
        with self._lock:
            for subject in reply_subjects:
                self._by_reply[subject][2].unheard = True

    def stories(self, job_id: int) -> list[TaskStory]:
        """When each task of a job was handed out and given up. Raises UnknownJobError."""
        with self._lock:
            self._expire()
            return [
                TaskStory(
                    task.image_id,
                    task.stage,
                    task.answers,
                    task.differing,
                    tuple(Told(one.at, one.until, one.unheard) for one in task.story),
                )
                for task in self._job(job_id).tasks
            ]

    def _job(self, job_id: int) -> _Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise UnknownJobError(job_id) from None

    def _deliver(self, task: _Task, now: float) -> Delivery:
        job = task.job
        self._deliveries += 1
        task.deliveries += 1
        if task.deliveries > 1:
            self._count(job, "redelivered")
        # The layout of a JetStream acknowledgement subject: stream, consumer, how often this
        # message was delivered, its number in the stream, the number of the delivery.
        subject = (
            f"$JS.ACK.job_{job.job_id}.job-{job.job_id}-consumer"
            f".{task.deliveries}.{task.number}.{self._deliveries}"
        )
        deadline = now + self._visibility_timeout_s
        task.story.append(_Handed(time.monotonic()))
        self._by_reply[subject] = (task, deadline, task.story[-1])
        heapq.heappush(self._deadlines, (deadline, self._deliveries, task))
        self._move(task, "reserved")
        return Delivery(f"job-{job.job_id}-task-{task.number}", task.image_id, subject, task.deliveries)

    def _expire(self) -> float:
        """Ends the reservations whose time is over; returns the time now."""
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, _, task = heapq.heappop(self._deadlines)
            # A task is delivered again only after its earlier deadline was taken off this heap, so
            # the deadline is that of the delivery now out, where one is.
            if task.stage != "reserved":
                continue
            task.story[-1].until = time.monotonic()
            if task.deliveries >= self._max_deliver:
                self._move(task, "lost")
            else:
                self._move(task, "waiting")
                task.job.again.append(task)
        return now

    def _move(self, task: _Task, stage: _Stage) -> None:
        job = task.job
        self._count(job, task.stage, -1)
        self._count(job, stage)
        task.stage = stage
        if not job.counts.get("waiting") and not job.counts.get("reserved"):
            self._incomplete.pop(job.job_id, None)

    def _count(self, job: _Job, name: _Count, by: int = 1) -> None:
        job.counts[name] = job.counts.get(name, 0) + by
        self._totals[name] = self._totals.get(name, 0) + by


def _is_about(result: Result, image_id: str) -> bool:
    if "error" in result:
        named = result.get("image_id")
        return named is None or str(named) == image_id
    return any(str(image["id"]) == image_id for image in result["source_images"])
