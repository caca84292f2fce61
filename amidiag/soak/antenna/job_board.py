"""Which jobs there are, and which of them a poll finds."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from amidiag.soak.antenna.schemas import JobsQuery
from amidiag.soak.antenna.task_queue import TaskQueue, UnknownJobError
from amidiag.soak.antenna.words import JobSpec


class JobBoard:
    """Jobs by id, numbered from 1. `seed` fixes the shuffling. Thread-safe."""

    def __init__(self, queue: TaskQueue, seed: int) -> None:
        self._queue = queue
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._jobs: dict[int, JobSpec] = {}
        self._always: list[int] = []
        self._shown: tuple[int, ...] | None = None

    def add(self, spec: JobSpec, image_ids: Sequence[str]) -> int:
        """Adds a job with one task per image; returns its id."""
        with self._lock:
            job_id = len(self._jobs) + 1
            # The queue first: a listed job must never be one that tasks/ does not know.
            self._queue.add_job(job_id, image_ids)
            self._jobs[job_id] = spec
            if spec.list_always:
                self._always.append(job_id)
            return job_id

    def show(self, job_ids: Sequence[int] | None) -> None:
        """Polls find only these from now on, complete or not; None: what is there. Raises UnknownJobError."""
        with self._lock:
            self._shown = None if job_ids is None else self._known(job_ids)

    def check(self, job_ids: Sequence[int]) -> tuple[int, ...]:
        """These ids, all of jobs that exist. Raises UnknownJobError."""
        with self._lock:
            return self._known(job_ids)

    def pipeline(self, job_id: int) -> str:
        """Raises UnknownJobError."""
        with self._lock:
            return self._jobs[self._known([job_id])[0]].pipeline

    def ids(self) -> list[int]:
        """All jobs, oldest first."""
        with self._lock:
            return list(self._jobs)

    def find(self, query: JobsQuery, exactly: Sequence[int] | None = None) -> list[tuple[int, str]]:
        """(id, pipeline slug) of the jobs that a poll finds.

        `exactly` comes from the lock-step gate and overrules the query, its limit included: the
        controller has said what this poll finds.
        """
        with self._lock:
            if exactly is not None:
                return [(job_id, self._jobs[job_id].pipeline) for job_id in exactly]
            if not query.async_api:
                return []
            found = [(job_id, self._jobs[job_id].pipeline) for job_id in self._candidates(query)]
            if query.pipelines is not None:
                found = [job for job in found if job[1] in query.pipelines]
            if query.ids_only:
                self._random.shuffle(found)
            return found[: query.limit]

    def _candidates(self, query: JobsQuery) -> Sequence[int]:
        if self._shown is not None:
            return self._shown
        if not query.incomplete_only:
            return list(self._jobs)
        return sorted({*self._queue.incomplete(), *self._always})

    def _known(self, job_ids: Sequence[int]) -> tuple[int, ...]:
        for job_id in job_ids:
            if job_id not in self._jobs:
                raise UnknownJobError(job_id)
        return tuple(job_ids)
