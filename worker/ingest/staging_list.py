"""Which images are to be staged, for which tasks, and what has become of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.antenna.schemas import Task
from worker.ingest.staged_files import staged_path

_LOOK_EVERY_S = 0.25


@dataclass(slots=True, eq=False)
class Wanted:
    """One image, for one task or several that have the same. `file`: what was staged, the image or the error;
    None with `ready`: nothing, and nothing more will be done."""

    task: Task
    path: Path
    task_ids: set[str] = field(default_factory=set)
    wanted: bool = True
    ready: bool = False
    file: Path | None = None
    partial: Path | None = None


class StagingList:
    """Shared by the main thread, which never waits here, and the threads that stage."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._changed = threading.Condition()
        self._queue: deque[Wanted] = deque()
        self._by_task: dict[tuple[int, str], Wanted] = {}
        self._by_path: dict[Path, Wanted] = {}
        self._at_work: set[Wanted] = set()
        self._waiting = 0
        self._files = 0
        self._closed = False

    @property
    def queued(self) -> int:
        """Images of which the download has not begun."""
        return len(self._queue)

    @property
    def empty(self) -> bool:
        """Whether there is no image for any task."""
        return not self._by_path

    def add(self, job_id: int, tasks: Iterable[Task]) -> None:
        """Ask for the images of tasks. One that is known already gets the newest address."""
        with self._changed:
            for task in tasks:
                path = staged_path(self._directory, job_id, task)
                one = self._by_path.get(path)
                if one is None:
                    one = self._by_path[path] = Wanted(task, path)
                    self._queue.append(one)
                one.task = task
                one.task_ids.add(task.id)
                self._by_task[job_id, task.id] = one
            self._changed.notify_all()

    def is_ready(self, job_id: int, task: Task) -> bool:
        """Whether nothing more will be done for a task, staged or not; also of one that is not known."""
        one = self._by_task.get((job_id, task.id))
        return one is None or one.ready or self._closed

    def take(self) -> Wanted | None:
        """Wait for an image to stage. None: there will be no more."""
        with self._changed:
            while not self._closed:
                while self._queue:
                    one = self._queue.popleft()
                    if one.wanted:
                        self._at_work.add(one)
                        return one
                self._changed.wait()
            return None

    def settle(self, one: Wanted, file: Path | None) -> bool:
        """The work on an image is over. Returns whether it is still wanted; if not, `file` is to be removed."""
        with self._changed:
            self._at_work.discard(one)
            self._files += file is not None
            one.file, one.ready = file, True
            self._changed.notify_all()
            return one.wanted

    def wait_for_room(self, one: Wanted, deadline: float) -> bool:
        """Wait until there may be more room. False: it is not wanted any more, `deadline` (CLOCK_MONOTONIC) is
        over, or nothing is here that would make room when it ends."""
        with self._changed:
            writing = len(self._at_work) - 1 - self._waiting
            rest = deadline - time.monotonic()
            if not one.wanted or self._closed or rest <= 0 or not (writing or self._files):
                return False
            self._waiting += 1
            # Other workers make room too, and tell nobody.
            self._changed.wait(min(rest, _LOOK_EVERY_S))
            self._waiting -= 1
            return one.wanted and not self._closed

    def freed(self) -> None:
        """A download has given its room back."""
        with self._changed:
            self._changed.notify_all()

    def drop(self, job_id: int, task_ids: Sequence[str]) -> list[Path]:
        """Tasks that need no image any more. Returns the files to remove."""
        with self._changed:
            known = [self._by_task.pop((job_id, i), None) for i in task_ids]
            return [
                file
                for i, one in zip(task_ids, known, strict=True)
                if one and (file := self._without(one, i))
            ]

    def drop_job(self, job_id: int) -> list[Path]:
        """As `drop`, for all tasks of a job."""
        with self._changed:
            return self.drop(job_id, [task_id for job, task_id in self._by_task if job == job_id])

    def _without(self, one: Wanted, task_id: str) -> Path | None:
        one.task_ids.discard(task_id)
        if one.task_ids:
            return None
        one.wanted = False
        del self._by_path[one.path]
        return one.file

    def unused(self, files: Iterable[Path]) -> list[Path]:
        """Which of the files nobody has asked for again."""
        with self._changed:
            in_use = {one.file for one in self._by_path.values()}
            return [file for file in files if file not in in_use]

    def removed(self, files: int) -> None:
        """So many files have been removed."""
        with self._changed:
            self._files -= files
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is staged; every task is ready."""
        with self._changed:
            self._closed = True
            for one in self._by_path.values():
                one.wanted = one.ready
            self._queue.clear()
            self._changed.notify_all()

    def partials(self) -> list[Path]:
        """The partial files of the downloads that have not ended."""
        with self._changed:
            return [one.partial for one in self._at_work if one.partial]
