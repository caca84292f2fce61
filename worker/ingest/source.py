"""Where the loader's work comes from: tasks of one job, reserved from the server, made into requests."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.schemas import AntennaError, Task
from worker.draining import Drain, StopWaiting
from worker.guard.tuner import JobTuner
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.pace import Pace
from worker.ingest.staging import Stager

log = logging.getLogger(__name__)

# How long one wait for staged files lasts, until it is seen whether the worker shall drain.
_WAIT_S = 0.2
_TRIES = 8


class Source(Protocol):
    """What a loader is fed by. Called by the parent's main thread; only `next_request` may wait, and raise
    `StopWaiting` where the worker is told to drain."""

    def next_request(self) -> BatchRequest | None:
        """What to load next; None for nothing now."""

    def arrived(self, batch: Batch) -> None:
        """The oldest request that is still in flight was answered with this batch."""


class Feed:
    """The DataLoader's `batch_sampler`, as long as the loader lives: gives what lies ready, and is never at its end.

    So the source is asked by us alone, at a moment of our choosing, and not whenever DataLoader has room.
    """

    def __init__(self) -> None:
        self.ready: deque[BatchRequest] = deque()

    def __iter__(self) -> Iterator[BatchRequest]:
        return self

    def __next__(self) -> BatchRequest:
        if not self.ready:
            raise StopIteration
        return self.ready.popleft()


class JobSource:
    """The tasks of one visit to a job.

    A call that fails ends the tasks, not the loader, which still holds good batches: `error` says why there
    are no more. `reserved` counts the tasks that were taken, redeliveries left out.
    """

    def __init__(
        self,
        client: AntennaClient,
        journal: Journal,
        tuner: JobTuner,
        pace: Pace,
        *,
        job_id: int,
        drain: Drain,
        first_task: Callable[[], None],
        stager: Stager | None = None,
        hold: Callable[[], bool] = lambda: False,
        asking: Callable[[], None] = lambda: None,
    ) -> None:
        """`hold`: whether no more tasks are to be reserved now; those that were are worked on.

        `asking`: called before each reservation: of a slow server many in a row take long.
        """
        self._client = client
        self._journal = journal
        self._tuner = tuner
        self._pace = pace
        self._job_id = job_id
        self._drain = drain
        self._first_task = first_task
        self._stager = stager
        self._hold = hold
        self._asking = asking
        self._pending: deque[Task] = deque()
        # To be loaded one by one: a loader process died with one of them.
        self._alone: deque[Task] = deque()
        self._deaths: dict[str, int] = {}
        self._in_flight: deque[BatchRequest] = deque()
        self._exhausted = False
        self._at_work = False
        self.error: AntennaError | None = None
        self.reserved = 0

    @property
    def in_flight(self) -> int:
        """How many tasks the loader holds."""
        return sum(len(request.tasks) for request in self._in_flight)

    def look(self) -> bool:
        """Reserve the first tasks, before a loader is built for them. Returns whether there are any."""
        self._fill(self._tuner.batch_size())
        return bool(self._pending)

    def next_request(self) -> BatchRequest | None:
        """The next tasks to load; None when enough is in flight, when all is, or to drain."""
        if self._drain.requested or (self._in_flight and len(self._in_flight) >= self._tuner.depth()):
            return None
        tasks = self._next_alone() or self._next_pending()
        if not tasks:
            return None
        request = BatchRequest(tasks, self._job_id, self._tuner.batch_bytes())
        self._in_flight.append(request)
        return request

    def arrived(self, batch: Batch) -> None:
        """A batch came and is being worked on: what did not fit into it is next."""
        self._in_flight.popleft()
        self._at_work = True
        self._pending.extendleft(reversed(batch.deferred))
        self._tuner.arrived(batch, len(batch.tasks))

    def worked(self) -> None:
        """The work on the batch that came is done."""
        self._at_work = False

    def loader_died(self, suspect: int | None) -> tuple[Task, ...]:
        """Take back what was in flight in a loader that is gone. Returns tasks that are not to be tried again.

        `suspect`: which of the requests in flight, the oldest is 0, it died with or waited for in vain; None
        where the fault is none of theirs. The suspect's tasks are loaded one by one, and a task that was alone
        twice is given up.
        """
        lost, self._in_flight = list(self._in_flight), deque()
        suspects = lost.pop(suspect).tasks if suspect is not None and suspect < len(lost) else ()
        given_up: tuple[Task, ...] = ()
        if len(suspects) == 1:
            (task,) = suspects
            self._deaths[task.id] = self._deaths.get(task.id, 0) + 1
            given_up = suspects if self._deaths[task.id] > 1 else ()
        self._alone.extend(task for task in suspects if task not in given_up)
        self._pending.extendleft(task for request in reversed(lost) for task in reversed(request.tasks))
        return given_up

    def leave_overdue(self) -> int:
        """Leave what was reserved so long ago that it cannot be answered in time to the server's redelivery."""
        if not self._pace.visibility_s:
            return 0
        before = time.monotonic() - self._pace.visibility_s
        late = set(self._journal.overdue(self._job_id, (*self._alone, *self._pending), before))
        self._journal.release(self._job_id, late)
        self._alone = deque(task for task in self._alone if task not in late)
        self._pending = deque(task for task in self._pending if task not in late)
        return len(late)

    def _next_alone(self) -> tuple[Task, ...]:
        return (self._alone.popleft(),) if self._alone else ()

    def _next_pending(self) -> tuple[Task, ...]:
        want = self._tuner.batch_size()
        self._fill(want if self._stager is None else want * (self._tuner.depth() + 1))
        tasks = self._ready()[:want]
        for task in tasks:
            self._pending.remove(task)
        return tuple(tasks)

    def _ready(self) -> Sequence[Task]:
        """The pending tasks that can be loaded now. Waits where nothing else is under way."""
        stager = self._stager
        if stager is None:
            return list(self._pending)
        while True:
            ready = [task for task in self._pending if stager.is_ready(self._job_id, task)]
            if ready or not self._pending or self._in_flight or self._at_work or self._drain.requested:
                return ready
            # Nothing else of it is interrupted: it takes locks.
            with self._drain.interruptible():
                stager.wait_any(_WAIT_S)

    def _fill(self, count: int) -> None:
        """Reserve until so many tasks are pending, as far as they can be answered in time."""
        # What comes again while it is in hand is no work: then it is asked once more.
        for _ in range(_TRIES):
            ask = self._may_ask(count)
            if ask < 1 or self._exhausted or self._hold():
                return
            fresh = self._reserve(ask)
            if fresh:
                self._pending.extend(fresh)
                if self._stager is not None:
                    self._stager.stage(self._job_id, fresh)
                return

    def _may_ask(self, count: int) -> int:
        ask = count - len(self._pending)
        room = self._pace.room(len(self._journal))
        if room is None or ask < 1:
            return ask
        idle = not (self._pending or self._in_flight or self._at_work)
        return max(min(ask, room), int(idle))

    def _reserve(self, count: int) -> list[Task]:
        self._asking()
        try:
            with self._drain.interruptible():
                offered = self._client.reserve(self._job_id, count)
        except StopWaiting:
            # What the server has given out meanwhile has no name here.
            log.warning(
                "job %s: a reservation was cut short: up to %s tasks left to the server's redelivery",
                *(self._job_id, count),
            )
            raise
        except AntennaError as e:
            self.error = e
            offered = []
        self._exhausted = not offered
        fresh = self._journal.admit(self._job_id, offered)
        if fresh and not self.reserved:
            self._first_task()
        self.reserved += len(fresh)
        return fresh


class DrainSource:
    """Asks each of `count` loader processes once to empty its caches. DataLoader hands them out in turn."""

    def __init__(self, job_id: int, count: int) -> None:
        self._job_id = job_id
        self._left = count

    def next_request(self) -> BatchRequest | None:
        """One more, until each was asked."""
        if not self._left:
            return None
        self._left -= 1
        return BatchRequest((), self._job_id, drain=True)

    def arrived(self, batch: Batch) -> None:
        """Nothing to learn from it."""
