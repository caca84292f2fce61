"""What this worker has reserved and not yet answered, and what it has answered of late.

Fetching a task only reserves it: what is not answered within the server's visibility time is handed out
again, with a new reply subject, and after `max_deliver` deliveries the image is lost (ANTENNA_API.md).
The journal, kept by the parent, therefore knows at every moment what is in hand: a task that comes again
meanwhile is not worked on twice but answered under its newest reply subject, also where its answer only waits
for the server; one that comes again though its answer was accepted, because that came late, is not answered
twice; and what a dead loader held can be named.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from worker.antenna.schemas import Task

# So many late answers are remembered, some 230 bytes each.
_REMEMBERED = 2_000

Key = tuple[int, str]


@dataclass(slots=True)
class Entry:
    """One task in hand. `reserved_at` is CLOCK_MONOTONIC in seconds, of the newest delivery.

    `waits`: its answer is there, and only waits for the server to take it.
    """

    job_id: int
    task: Task
    reserved_at: float
    waits: bool = False


class Journal:
    """The tasks in hand, by job and task. Used by the main thread and the poster's.

    `late_after_s`: a task that was answered later than so many seconds after its reservation may come again.
    """

    def __init__(self, late_after_s: float = 0.0) -> None:
        self._late_after_s = late_after_s
        self._entries: dict[Key, Entry] = {}
        self._accepted: OrderedDict[Key, None] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, job_id: int, tasks: Iterable[Task]) -> list[Task]:
        """Enter newly reserved tasks. Returns those that are to be worked on: not in hand, not answered."""
        now = time.monotonic()
        fresh = []
        with self._lock:
            for task in tasks:
                key = (job_id, task.id)
                entry = self._entries.get(key)
                if entry is not None:
                    entry.task, entry.reserved_at = task, now
                elif key not in self._accepted:
                    self._entries[key] = Entry(job_id, task, now)
                    fresh.append(task)
        return fresh

    def adopt(self, job_id: int, tasks: Iterable[Task], reserved_at: float) -> list[str]:
        """Enter tasks of an earlier worker, whose answers wait. Returns the ids of those that are not in hand."""
        fresh = []
        with self._lock:
            for task in tasks:
                entry = self._entries.get((job_id, task.id))
                if entry is None:
                    self._entries[job_id, task.id] = Entry(job_id, task, reserved_at, waits=True)
                    fresh.append(task.id)
                else:
                    entry.task = task
        return fresh

    def waiting(self, job_id: int, task_ids: Iterable[str]) -> None:
        """The answers to these tasks are there: from now on they are nobody else's to give up."""
        with self._lock:
            for task_id in task_ids:
                entry = self._entries.get((job_id, task_id))
                if entry is not None:
                    entry.waits = True

    def found(self, job_id: int, task_ids: Iterable[str]) -> list[Entry | None]:
        """What is known of each task; None for one that is not in hand."""
        with self._lock:
            return [self._entries.get((job_id, task_id)) for task_id in task_ids]

    def forget(self, job_id: int, task_ids: Iterable[str]) -> None:
        """Give up answers that wait: what comes of their tasks is left to the server's redelivery."""
        with self._lock:
            for task_id in task_ids:
                self._entries.pop((job_id, task_id), None)

    def reply_subjects(self, job_id: int, task_ids: Iterable[str]) -> list[str | None]:
        """Under which reply subject each task is to be answered now.

        Raises:
            KeyError: a task is not in hand.
        """
        with self._lock:
            return [self._entries[job_id, task_id].task.reply_subject for task_id in task_ids]

    def answered(self, job_id: int, task_ids: Iterable[str]) -> None:
        """The server has accepted the answers, or refused them for good: no longer in hand, and not to come back."""
        late = time.monotonic() - self._late_after_s
        with self._lock:
            for task_id in task_ids:
                entry = self._entries.pop((job_id, task_id), None)
                if entry is not None and entry.reserved_at <= late:
                    self._accepted[job_id, task_id] = None
            while len(self._accepted) > _REMEMBERED:
                self._accepted.popitem(last=False)

    def in_hand(self, job_id: int) -> Sequence[Entry]:
        """The tasks of a job that are reserved and not answered, oldest reservation first."""
        with self._lock:
            return sorted(
                (e for e in self._entries.values() if e.job_id == job_id), key=lambda e: e.reserved_at
            )

    def overdue(self, job_id: int, tasks: Iterable[Task], before: float) -> list[Task]:
        """Those of `tasks` that were reserved before the moment `before` (CLOCK_MONOTONIC, seconds)."""
        with self._lock:
            return [t for t in tasks if (e := self._entries.get((job_id, t.id))) and e.reserved_at < before]

    def release(self, job_id: int, tasks: Iterable[Task] | None = None) -> Sequence[Entry]:
        """Give up tasks of a job, or all of it in hand: left to the server's redelivery. Returns what that is.

        What only waits for the server stays.
        """
        wanted = None if tasks is None else {t.id for t in tasks}
        left = [e for e in self.in_hand(job_id) if not e.waits and (wanted is None or e.task.id in wanted)]
        with self._lock:
            for entry in left:
                self._entries.pop((job_id, entry.task.id), None)
        return left

    def __len__(self) -> int:
        return len(self._entries)


def describe(entries: Collection[Entry], shown: int = 8) -> str:
    """`48 tasks (17, 18, …)`, for the log."""
    names = ", ".join(e.task.id for e in list(entries)[:shown]) + (", …" if len(entries) > shown else "")
    return f"{len(entries)} task{'s' * (len(entries) != 1)} ({names})"
