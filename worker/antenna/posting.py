"""Posting results beside the work: in order, with back-pressure, again until the server takes them."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.antenna.client import AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.schemas import AntennaError, BadAnswerError, RefusedContentError, UnavailableError
from worker.antenna.spool import Spool

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is posted for one task: R of ANTENNA_API.md, a result or an error."""

    task_id: str
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Post:
    job_id: int
    answers: Sequence[Answer]


class ResultPoster:
    """One thread that posts what it is given, oldest first.

    At most `max_pending` posts wait or are under way; `submit` blocks beyond that. An unavailable server is
    asked again, with growing pauses, for up to `give_up_after_s` per post. The thread is started by the
    first post and idle between jobs: loader processes are forked while it holds no lock.
    """

    def __init__(
        self,
        client: AntennaClient,
        journal: Journal,
        *,
        max_pending: int,
        give_up_after_s: float,
        accepted: Callable[[], None],
        spool: Spool | None = None,
        hurry: Callable[[], bool] = lambda: False,
        hurry_s: float = math.inf,
    ) -> None:
        """`hurry`: whether the worker was told to drain; from then on waits last `hurry_s` seconds at most."""
        self._spool = spool
        self._hurry = hurry
        self._hurry_s = hurry_s
        self._client = client
        self._journal = journal
        self._max_pending = max_pending
        self._give_up_after_s = give_up_after_s
        self._accepted = accepted
        self._posts: deque[_Post] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def failing(self) -> bool:
        """Whether the server does not take results now: then no more work is to be taken on."""
        return False

    def take_left(self) -> int:
        """Take over what earlier workers have left in the spool, to be posted before anything else. How many tasks."""
        return 0

    def keep(self) -> None:
        """Put everything that is pending into the spool at once. For the end of a worker that hangs: from any
        thread, and whatever the others do."""

    def submit(self, job_id: int, answers: Sequence[Answer]) -> None:
        """Take answers to be posted; waits while too many are pending.

        Raises:
            AntennaError: an earlier post has failed for good, as `drain`.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._posts) < self._max_pending)
            self._raise_failure()
            if self._thread is None:
                # Before anything is pending: a thread that cannot be had would leave it so for ever.
                thread = threading.Thread(target=self._run, name="ami-poster", daemon=True)
                thread.start()
                self._thread = thread
            self._posts.append(_Post(job_id, tuple(answers)))
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until everything is with the server.

        Raises:
            AntennaError: the server refused this worker, or was unavailable for too long.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._failure or not self._posts)
            self._raise_failure()

    def close(self) -> None:
        """End the thread; what is still pending is not posted (drain first). A later `submit` starts anew."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._posts.clear()
        self._closing.clear()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._post_all()
        finally:
            self._client.leave()

    def _post_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._posts or self._closing.is_set())
                if self._closing.is_set():
                    return
                post = self._posts[0]
            try:
                failure: Exception | None = self._deliver(post)
            except Exception as e:  # noqa: BLE001 - whatever ends this thread must reach the one that waits
                failure = e
            with self._changed:
                # Only now: a post under way is pending too.
                self._posts.popleft()
                self._failure = failure
                self._changed.notify_all()
            if failure is not None:
                return

    def _deliver(self, post: _Post) -> AntennaError | None:
        """Post until accepted or given up. Returns the failure that ends the worker, if any."""
        ids = [a.task_id for a in post.answers]
        started, pause = time.monotonic(), FIRST_PAUSE_S
        while True:
            try:
                self._post(post, ids)
            except UnavailableError as e:
                if time.monotonic() - started >= self._give_up_after_s or self._closing.is_set():
                    log.error("job %s: results of %s tasks given up: %s", post.job_id, len(ids), e)
                    return e
                if pause == FIRST_PAUSE_S:
                    log.warning("job %s: results not taken, posting again: %s", post.job_id, e)
                self._closing.wait(min(pause, self._give_up_after_s))
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except RefusedContentError as e:
                return self._in_parts(post, e)
            except BadAnswerError as e:
                log.error("job %s: results of %s tasks refused: %s", post.job_id, len(ids), e)
                self._journal.answered(post.job_id, ids)
                return None
            except AntennaError as e:
                return e
            else:
                self._journal.answered(post.job_id, ids)
                self._accepted()
                return None

    def _in_parts(self, post: _Post, error: RefusedContentError) -> AntennaError | None:
        """Post what the server would not take in halves, so that one answer does not cost the others.

        One that is refused alone becomes an error: its task is to be answered all the same.
        """
        if len(post.answers) == 1:
            (only,) = post.answers
            log.error("job %s: the answer to task %s refused: %s", post.job_id, only.task_id, error)
            if "error" in only.result:
                self._journal.answered(post.job_id, [only.task_id])
                return None
            return self._deliver(_Post(post.job_id, [_refused(only, error)]))
        middle = len(post.answers) // 2
        for part in (post.answers[:middle], post.answers[middle:]):
            failure = self._deliver(_Post(post.job_id, part))
            if failure is not None:
                return failure
        return None

    def _post(self, post: _Post, ids: Sequence[str]) -> None:
        # Asked anew for each attempt: a redelivery since the last one has another reply subject.
        subjects = self._journal.reply_subjects(post.job_id, ids)
        results = [
            {"reply_subject": subject, "result": answer.result}
            for subject, answer in zip(subjects, post.answers, strict=True)
        ]
        taken = self._client.post_results(post.job_id, results)
        if taken is not None and taken < len(results):
            log.warning("job %s: the server took %s of %s results", post.job_id, taken, len(results))


def _refused(answer: Answer, error: RefusedContentError) -> Answer:
    images = answer.result.get("source_images") or [{}]
    said = {"error": f"the result was refused: {error}", "image_id": images[0].get("id")}
    return Answer(answer.task_id, said)
