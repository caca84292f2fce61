"""What this worker has reserved and not yet answered.

Fetching a task only reserves it: what is not answered within the server's visibility time is handed out
again, with a new reply subject, and after `max_deliver` deliveries the image is lost (ANTENNA_API.md).
The journal, kept by the parent, therefore knows at every moment what is in hand: a task that comes again
meanwhile is not worked on twice but answered under its newest reply subject, and what a dead loader held
can be named.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from worker.antenna.schemas import Task


@dataclass(slots=True)
class Entry:
    """One task in hand. `reserved_at` is CLOCK_MONOTONIC in seconds, of the newest delivery."""

    job_id: int
    task: Task
    reserved_at: float
    batch: int


class Journal:
    """The tasks in hand, by job and task. Used by the main thread and the poster's."""

    def __init__(self) -> None:
        self._entries: dict[tuple[int, str], Entry] = {}
        self._lock = threading.Lock()

    def admit(self, job_id: int, tasks: Iterable[Task], batch: int) -> list[Task]:
        """Enter newly reserved tasks as part of `batch`. Returns those that were not in hand already."""
        now = time.monotonic()
        fresh = []
        with self._lock:
            for task in tasks:
                entry = self._entries.get((job_id, task.id))
                if entry is None:
                    self._entries[job_id, task.id] = Entry(job_id, task, now, batch)
                    fresh.append(task)
                else:
                    entry.task, entry.reserved_at = task, now
        return fresh

    def reply_subjects(self, job_id: int, task_ids: Iterable[str]) -> list[str | None]:
        """Under which reply subject each task is to be answered now.

        Raises:
            KeyError: a task is not in hand.
        """
        with self._lock:
            return [self._entries[job_id, task_id].task.reply_subject for task_id in task_ids]

    def answered(self, job_id: int, task_ids: Iterable[str]) -> None:
        """The server has accepted the answers: these tasks are no longer in hand."""
        with self._lock:
            for task_id in task_ids:
                self._entries.pop((job_id, task_id), None)

    def in_hand(self, job_id: int) -> Sequence[Entry]:
        """The tasks of a job that are reserved and not answered, oldest batch first."""
        with self._lock:
            return sorted((e for e in self._entries.values() if e.job_id == job_id), key=lambda e: e.batch)

    def release(self, job_id: int) -> Sequence[Entry]:
        """Give up what is in hand of a job: it is left to the server's redelivery. Returns what that is."""
        left = self.in_hand(job_id)
        self.answered(job_id, [e.task.id for e in left])
        return left

    def __len__(self) -> int:
        return len(self._entries)


def describe(entries: Collection[Entry], shown: int = 8) -> str:
    """`48 tasks in 2 batches (task 17, 18, …)`, for the log."""
    names = ", ".join(e.task.id for e in list(entries)[:shown]) + (", …" if len(entries) > shown else "")
    batches = len({e.batch for e in entries})
    return (
        f"{len(entries)} task{'s' * (len(entries) != 1)} in {batches} batch{'es' * (batches != 1)} ({names})"
    )
