"""Which tasks the loader works on next: reserved from the server, entered in the journal, listed by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.schemas import AntennaError, Task


class TaskSampler:
    """A `batch_sampler` for one job. Runs in the parent, whenever DataLoader has room for a batch.

    It never raises into DataLoader, which would tear down a loader that still holds good batches: the
    iteration ends, and `error` says why. `reserved` counts the tasks that were taken, redeliveries left out.
    """

    def __init__(
        self,
        client: AntennaClient,
        journal: Journal,
        *,
        job_id: int,
        batch_size: int,
        stopping: Callable[[], bool],
        first_task: Callable[[], None],
    ) -> None:
        self._client = client
        self._journal = journal
        self._job_id = job_id
        self._batch_size = batch_size
        self._stopping = stopping
        self._first_task = first_task
        self.error: AntennaError | None = None
        self.reserved = 0
        self.batches = 0

    def __iter__(self) -> Iterator[list[Task]]:
        while not self._stopping():
            tasks = self._reserve()
            if not tasks:
                return
            if not self.reserved:
                self._first_task()
            self.reserved += len(tasks)
            self.batches += 1
            yield tasks

    def _reserve(self) -> list[Task]:
        try:
            offered = self._client.reserve(self._job_id, self._batch_size)
        except AntennaError as e:
            self.error = e
            return []
        return self._journal.admit(self._job_id, offered, self.batches + 1)
