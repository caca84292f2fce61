"""Images on their way to the disk: downloaded ahead, in threads, so that memory need not hold them."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.mounts import read_mounts
from worker.antenna.schemas import Task
from worker.exhaustion import behind
from worker.ingest.download import DownloadError, download_to
from worker.ingest.image_session import image_session
from worker.ingest.limits import ImageLimits
from worker.ingest.partial_file import NoRoomError, PartialFile, UnwantedError
from worker.ingest.staged_files import StagingError, adopt, error_path, prepare, read_staged, staged_path
from worker.ingest.staging_list import StagingList, Wanted
from worker.ingest.staging_room import BLOCK, Room, remove_if_empty

__all__ = ["Stager", "StagingError", "read_staged", "staged_path"]

log = logging.getLogger(__name__)

STEP = 4 * 1024 * 1024
PATIENCE_S = 10.0
REST_S = 30.0
CLOSE_LIMIT_S = 2.0
NOT_OURS_TO_WRITE = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))


class Stager:
    """Stages the images of tasks in a directory that several workers may share.

    Used by the main thread of the worker; nothing but `wait_any`, `close` and the constructor ever waits.
    Each task becomes ready: its image is there, or an error that says why not (`read_staged` raises it), or
    neither, which means that it is not staged and whoever reads it downloads it himself. That happens

    - where the directory may not hold the file: it is larger than `max_bytes`, or there is no room for it
      and nothing of this worker's is there that would make room, or it has waited `patience_s` for room;
    - where the disk fails (full, read-only, no permission, ...): this is logged once for each reason, and
      for `REST_S` nothing is staged.

    A download that finds no room is given up, together with what has come, and begun again when there may
    be room for that much. Threads and connections are made at the first task; a forked child has no part in
    them. Complete files stay at `close`: the next run uses them.

    Raises:
        StagingError: the directory cannot be used; the text says what to do.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int,
        limits: ImageLimits,
        threads: int,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._max_bytes = max_bytes
        self._limits = limits
        self._most_threads = threads
        self._patience_s = patience_s
        # Claims in large steps are rare; in small directories they must leave room for other threads.
        self._step = max(BLOCK, min(STEP, max_bytes // 64 // BLOCK * BLOCK))
        self._typical = self._step
        self._list = StagingList(directory)
        self._room = Room(directory, max_bytes)
        self._session = image_session(threads)
        self._threads: list[threading.Thread] = []
        self._orders: SimpleQueue[tuple[list[Path], Path | None] | None] = SimpleQueue()
        # Not an event: the main thread may be taken out of its wait by a signal, and must not leave a lock.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._directory = directory
        self._resting_until = 0.0
        self._said: set[str] = set()
        self._begin()

    def stage(self, job_id: int, tasks: Sequence[Task]) -> None:
        """Begin to stage the images of tasks. Those that an earlier run has left are not downloaded again."""
        self._list.add(job_id, tasks)
        if not self._threads:
            self._start(self._clean, "ami-stage-clean")
        for _ in range(min(len(tasks), self._most_threads + 1 - len(self._threads))):
            self._start(self._run, f"ami-stage-{len(self._threads)}")

    def is_ready(self, job_id: int, task: Task) -> bool:
        """Whether a task can be handed to a loader process. True too for a task that was never given."""
        return self._list.is_ready(job_id, task)

    def wait_any(self, timeout_s: float) -> bool:
        """Wait until a task has become ready since the last call, or for `timeout_s`. Returns whether one has.

        A signal handler may raise in it.
        """
        try:
            self._news.get(timeout=max(0.0, timeout_s))
        except Empty:
            return False
        with suppress(Empty):
            while True:
                self._news.get_nowait()
        return True

    def room(self) -> bool:
        """Whether one more image, as large as those before, finds room. True where nothing is staged now, and
        while the disk fails: images then pass by without being staged."""
        if self._list.empty or self._resting:
            return True
        return self._room.total + (self._list.queued + 1) * self._typical <= self._max_bytes

    def done(self, job_id: int, tasks: Sequence[Task]) -> None:
        """These tasks are answered, or given up: their files are removed."""
        if files := self._list.drop(job_id, [task.id for task in tasks]):
            self._orders.put((files, None))

    def job_ended(self, job_id: int) -> None:
        """As `done`, for all tasks of a job, and its directory goes too if no other worker has a file there."""
        self._orders.put((self._list.drop_job(job_id), self._directory / f"job-{job_id}"))

    def close(self) -> None:
        """End, within `CLOSE_LIMIT_S` whatever a server does: every task is ready, partial files are removed."""
        self._list.close()
        self._session.close()
        self._orders.put(None)
        self._news.put(None)
        deadline = time.monotonic() + CLOSE_LIMIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        # What a thread still writes that waits for a server; it ends by itself, within the limits of a download.
        for partial in self._list.partials():
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    @property
    def _resting(self) -> bool:
        return time.monotonic() < self._resting_until

    def _begin(self) -> None:
        try:
            prepare(self._directory)
            self._room.recount()
            in_memory = read_mounts(os.getpid()).in_memory(self._directory.stat().st_dev)
        except OSError as e:
            if e.errno in NOT_OURS_TO_WRITE:
                raise StagingError(
                    f"{self._directory} cannot be written to: {e.strerror}; change that, or name another directory"
                ) from None
            self._rest(e)
        except CannotObserve as e:
            log.debug("staging: %s", e)
        else:
            if in_memory:
                log.warning("staging: %s lies in memory (tmpfs): name a directory on a disk", self._directory)

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self) -> None:
        while (one := self._list.take()) is not None:
            file = None
            try:
                file = self._fetch(one)
            except Exception:
                log.exception("staging: task %s", one.task.id)  # It is not staged; the thread goes on.
            if not self._list.settle(one, file):
                self._orders.put(([file] if file else [], one.path.parent))
            if self._news.empty():
                self._news.put(None)

    def _fetch(self, one: Wanted) -> Path | None:
        """Stage one image. Returns what was made, its file or that of the error; None: it is not staged."""
        need, deadline = 0, None
        try:
            prepare(self._directory)
            # A link in its place is found here, before anything is looked for behind it.
            prepare(one.path.parent)
            if adopt(one.path):
                return one.path
            while not self._resting:
                try:
                    return self._download(one, need)
                except NoRoomError as e:
                    need = e.wanted
                    deadline = deadline or time.monotonic() + self._patience_s
                    if e.freed:
                        self._list.freed()
                    if need > self._max_bytes or not self._list.wait_for_room(one, deadline):
                        return None
        except (OSError, StagingError) as e:
            if one.wanted:
                self._rest(e)
        except UnwantedError:
            return None
        return None

    def _download(self, one: Wanted, need: int) -> Path:
        if stale := [path for path in (one.path, error_path(one.path)) if path.exists()]:
            self._room.remove(stale)
        with self._partial(one, one.path, self._typical) as file:
            file.claim(need)
            try:
                size = download_to(self._session, one.task.image_url, self._limits, file)
            except DownloadError as e:
                if (ours := behind(e)) is not None:
                    # No answer for the image: whoever needs it downloads it himself.
                    raise StagingError(ours) from e
                failure = str(e)
            else:
                file.complete()
                self._typical += (size - self._typical) // 8
                return one.path
        with self._partial(one, error_path(one.path), BLOCK) as file:
            file.write(failure.encode("utf-8", "replace"))
            file.complete()
        return error_path(one.path)

    def _partial(self, one: Wanted, target: Path, first: int) -> PartialFile:
        file = PartialFile(self._room, target, first=first, step=self._step, wanted=lambda: one.wanted)
        one.partial = file.path
        return file

    def _clean(self) -> None:
        while (order := self._orders.get()) is not None:
            files, directory = order
            try:
                self._room.remove(self._list.unused(files))
            except OSError as e:
                self._say(e)
            self._list.removed(len(files))
            if directory is not None:
                remove_if_empty(directory)

    def _rest(self, error: OSError | StagingError) -> None:
        self._resting_until = time.monotonic() + REST_S
        self._say(error)

    def _say(self, error: OSError | StagingError) -> None:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if text not in self._said:
            self._said.add(text)
            log.warning("staging in %s: %s; images are downloaded without it", self._directory, text)
