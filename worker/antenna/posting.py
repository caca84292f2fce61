"""Posting results beside the work: in order, with back-pressure, again until the server takes them."""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Sequence

from worker.antenna.client import LATER, AntennaClient
from worker.antenna.journal import Journal
from worker.antenna.pending import Answer, Pending, Post
from worker.antenna.retrying import Hurry, Retries
from worker.antenna.schemas import (
    AntennaError,
    BadAnswerError,
    RefusedContentError,
    UnauthorizedError,
    UnavailableError,
)
from worker.antenna.spool import Spool

log = logging.getLogger(__name__)

# A server that is only slow gets more time, up to so many times the limit of a call.
_MOST_PATIENCE = 4
# So often a server may fail at a post until nobody waits for it any more; and so often it must have failed at a
# single answer, with other posts taken between, until that is to blame and not the server: by a 500 of its own, or by
# what a proxy says of it.
_BROKEN = 4
_BLAMED, _BLAMED_BY_PROXY = 6, 12
_MOST_CAUSES = 8
_TICK_S = 0.25
_IDLE_TICK_S = 60.0
_END_LIMIT_S = 5.0

__all__ = ["Answer", "ResultPoster"]


class ResultPoster:
    """One thread that posts what it is given, oldest first, until the server takes it.

    What was not taken at the first try goes to the spool, and so does all that is pending then: it outlives this
    process. At most `max_pending` posts are kept in memory; where there is no room on disk either, `submit` waits.
    When nothing has been taken for `give_up_after_s`, this worker ends; what it leaves is posted by the next.

    The thread is started by the first post and idle between jobs: loader processes are forked while it holds
    no lock.
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
        self._spool = spool or Spool()
        self._hurry = Hurry(hurry, hurry_s)
        self._retries = Retries(give_up_after_s)
        self._client = client
        self._journal = journal
        self._accepted = accepted
        self._pending = Pending(journal, self._spool, max_pending)
        self._changed = threading.Condition()
        self._closing = False
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._taken = 0
        self._level_of_not_ours = logging.WARNING
        # Said since the server has last taken something.
        self._causes: set[str] = set()

    @property
    def failing(self) -> bool:
        """Whether the server does not take results now: then no more work is to be taken on."""
        return self._retries.since is not None and not self._only_broken()

    def take_left(self) -> int:
        """Take over what earlier workers have left in the spool, to be posted before anything else. How many tasks."""
        with self._changed:
            left = self._pending.take_left()
            if left:
                self._start()
        return sum(len(post.ids) for post in left)

    def keep(self) -> None:
        """Put everything that is pending into the spool at once. For the end of a worker that hangs: from any
        thread, and whatever the others do."""
        self._pending.store_all()

    def submit(self, job_id: int, answers: Sequence[Answer]) -> None:
        """Take answers to be posted; waits while too many are pending and none can be stored.

        Raises:
            AntennaError: an earlier post has failed for good, as `drain`. These answers are in the spool then.
        """
        post = Post(job_id, tuple(a.task_id for a in answers), tuple(answers))
        self._journal.waiting(job_id, post.ids)
        try:
            with self._changed:
                self._raise_failure()
                # Before anything is pending: a thread that cannot be had would leave it so for ever.
                self._start()
            self._make_room(post)
            with self._changed:
                self._raise_failure()
                if self._only_broken():
                    self._pending.add_first(post)
                    self._retries.hasten()
                else:
                    self._pending.add(post)
                self._changed.notify_all()
        except BaseException:
            self._pending.store(post)
            raise

    @property
    def taken(self) -> int:
        """How many posts the server has taken."""
        return self._taken

    def drain(self, *, hurried: bool = False, look: Callable[[], None] = lambda: None) -> None:
        """Wait until everything is with the server; told to drain, or `hurried` as if it were, no longer than that
        may last. `look` is called a few times a second.

        Raises:
            AntennaError: the server refused this worker, or was unavailable for too long.
        """
        if hurried:
            self._hurry.is_due = True
        with self._changed:
            while self._is_awaited() and self._failure is None and not self._is_hurry_over():
                self._changed.wait(_TICK_S)
                look()
            self._raise_failure()

    def close(self) -> None:
        """End the thread; what is still pending stays in the spool (drain first), which is said. A later `submit`
        starts anew."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(self._longest_call_s() + _END_LIMIT_S)
        self._say_what_is_left()
        if thread is not None and thread.is_alive():
            # It is somewhere in a call. With this process it ends too.
            return
        self._pending.clear()
        self._spool.close()
        self._closing = False

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="ami-poster", daemon=True)
            thread.start()
            self._thread = thread

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _make_room(self, post: Post) -> None:
        """Wait until memory has room for a post, or until it is on disk and needs none."""
        while True:
            if self._retries.since is not None and self._pending.store(post):
                post.answers = post.answers if self._pending.has_room else None
                return
            with self._changed:
                if self._changed.wait_for(lambda: self._failure or self._pending.has_room, _TICK_S):
                    return
            if self._is_hurry_over():
                return

    def _is_hurry_over(self) -> bool:
        """Whether the worker was told to drain, and has waited for the server as long as it may."""
        if self._hurry.begins():
            with self._changed:
                self._retries.hasten()
                self._changed.notify_all()
        return self._hurry.left_s() <= 0 or self._retries.is_hopeless(self._hurry.end)

    def _is_awaited(self) -> bool:
        return bool(self._pending) and not self._only_broken()

    def _only_broken(self) -> bool:
        """Whether all that is pending is one post that the server fails at, or such posts of earlier workers: its
        fault or theirs, the next post will tell."""
        posts = list(self._pending)
        return (len(posts) == 1 or (len(posts) > 1 and all(post.left for post in posts))) and all(
            post.broken >= _BROKEN and post.taken == self._taken for post in posts
        )

    def _say_what_is_left(self) -> None:
        self._pending.store_all()
        tasks = sum(len(post.ids) for post in self._pending)
        lost = sum(len(post.ids) for post in self._pending if post.file is None)
        if tasks > lost:
            where = self._spool.directory
            log.warning(
                "the results of %s tasks are kept in %s, to be posted first at the next start",
                tasks - lost,
                where,
            )
        if lost:
            log.warning("the results of %s tasks could not be posted: left to the server's redelivery", lost)

    def _run(self) -> None:
        try:
            while (post := self._next()) is not None:
                failure = self._attempt(post)
                with self._changed:
                    self._failure = failure
                    self._changed.notify_all()
                if failure is not None:
                    break
        except BaseException as e:  # noqa: BLE001 - whatever ends this thread must reach the one that waits
            with self._changed:
                self._failure = e
                self._changed.notify_all()
        finally:
            if self._failure is not None:
                self._pending.store_all()
            self._client.leave()

    def _next(self) -> Post | None:
        """Wait for something to post, and until it may be tried again; None to end."""
        with self._changed:
            while not self._closing:
                rest = self._retries.due_in()
                if self._pending and rest <= 0:
                    return self._pending.first
                self._changed.wait(rest if self._pending else _IDLE_TICK_S)
            return None

    def _attempt(self, post: Post) -> Exception | None:
        """Post once. Returns the failure that ends the worker, if any."""
        try:
            answers = self._pending.answers(post)
        except OSError as e:
            self._pending.put_last(post)
            return self._not_taken(post, UnavailableError(f"{post.file}: {e}"))
        if answers is None:
            self._journal.forget(post.job_id, post.ids)
            self._pending.done(post)
            return None
        try:
            self._post(post, answers)
        except AntennaError as e:
            return self._failed(post, answers, e)
        self._accepted()
        self._taken += 1
        if self._retries.since is not None and self._causes:
            log.info("the server takes results again, after %.0f s", time.monotonic() - self._retries.since)
            self._causes.clear()
        self._answered(post)
        return None

    def _failed(self, post: Post, answers: Sequence[Answer], error: AntennaError) -> Exception | None:
        if isinstance(error, UnauthorizedError):
            return self._not_ours(post, error)
        if isinstance(error, UnavailableError) and not self._is_to_blame(post, error):
            return self._not_taken(post, error)
        if isinstance(error, UnavailableError | RefusedContentError):
            self._refuse(post, answers, error)
            return None
        if isinstance(error, BadAnswerError):
            log.error("job %s: results of %s tasks refused: %s", post.job_id, len(post.ids), error)
            self._answered(post)
            return None
        return error

    def _answered(self, post: Post) -> None:
        self._journal.answered(post.job_id, post.ids)
        self._pending.done(post)
        self._retries.answered()

    def _not_taken(self, post: Post, error: UnavailableError) -> Exception | None:
        """Keep all that is pending, and try again later."""
        with self._changed:
            is_too_long = self._retries.failed(error)
        post.tries += 1
        if _may_be_of_the_post(error):
            self._pending.put_last(post)
        self._pending.store_all()
        if self._is_news(post, error):
            kept = f", kept in {self._spool.directory}" if post.file is not None else ""
            log.warning("job %s: results not taken, posting again%s: %s", post.job_id, kept, error)
        if not is_too_long or self._hurry.has_begun or self._only_broken():
            return None
        log.error("job %s: results of %s tasks given up: %s", post.job_id, len(post.ids), error)
        return error

    def _is_news(self, post: Post, error: UnavailableError) -> bool:
        """Each cause once until something is taken again; and no more of a post at which only the server fails."""
        cause = re.sub(r" at 0x[0-9a-f]+|(?<=/jobs)/\d+", "", str(error))
        if post.broken > _BROKEN or cause in self._causes or len(self._causes) >= _MOST_CAUSES:
            return False
        self._causes.add(cause)
        return True

    def _is_to_blame(self, post: Post, error: UnavailableError) -> bool:
        """Whether the server fails, again and again, at this post while it takes others."""
        if not _may_be_of_the_post(error):
            return False
        post.blamed += post.broken > 0 and self._taken > post.taken
        post.broken, post.taken = post.broken + 1, self._taken
        if post.broken < _BROKEN:
            return False
        if len(post.ids) > 1:
            return post.blamed > 0
        # A connection that fails says nothing of an answer for sure: that is tried for ever, after the others.
        return error.status is not None and post.blamed >= (
            _BLAMED if error.status == 500 else _BLAMED_BY_PROXY
        )

    def _not_ours(self, post: Post, error: UnauthorizedError) -> Exception | None:
        """A refused token ends the worker; but what is left may be another worker's, with another token."""
        if not post.left:
            return error
        # As many of them as there may be.
        level, self._level_of_not_ours = self._level_of_not_ours, logging.DEBUG
        log.log(
            level,
            "job %s: the results of %s tasks that an earlier worker left in %s are refused: they stay there: %s",
            *(post.job_id, len(post.ids), self._spool.directory, error),
        )
        self._journal.forget(post.job_id, post.ids)
        self._pending.leave(post)
        self._retries.answered()
        return None

    def _refuse(self, post: Post, answers: Sequence[Answer], error: AntennaError) -> None:
        """Post what the server would not take in halves, so that one answer does not cost the others.

        One that is refused alone becomes an error: its task is to be answered all the same.
        """
        self._retries.answered()
        if len(answers) > 1:
            middle = len(answers) // 2
            self._pending.replace(post, (answers[:middle], answers[middle:]))
            return
        (only,) = answers
        log.error("job %s: the answer to task %s refused: %s", post.job_id, only.task_id, error)
        if "error" in only.result:
            self._answered(post)
        else:
            self._pending.replace(post, ((_refused(only, error),),))

    def _post(self, post: Post, answers: Sequence[Answer]) -> None:
        # Asked anew for each attempt: a redelivery since the last one has another reply subject.
        subjects = self._journal.reply_subjects(post.job_id, post.ids)
        results = [
            {"reply_subject": subject, "result": answer.result}
            for subject, answer in zip(subjects, answers, strict=True)
        ]
        taken = self._client.post_results(post.job_id, results, self._patience(post))
        if taken is not None and taken < len(results):
            log.warning("job %s: the server took %s of %s results", post.job_id, taken, len(results))

    def _patience(self, post: Post) -> float:
        # One at which the server fails again and again keeps the others waiting meanwhile: no more than once each.
        tries = post.tries if post.broken < _BROKEN else 0
        return min(self._client.limit_s * (1 + tries), self._longest_call_s())

    def _longest_call_s(self) -> float:
        return min(_MOST_PATIENCE * self._client.limit_s, max(1.0, self._hurry.left_s()))


def _may_be_of_the_post(error: UnavailableError) -> bool:
    """Whether other posts may fare better. Where the server is not there, or says that it is busy, none will."""
    return error.sent and error.status not in LATER | {503}


def _refused(answer: Answer, error: AntennaError) -> Answer:
    images = answer.result.get("source_images") or [{}]
    said = {"error": f"the result was refused: {error}", "image_id": images[0].get("id")}
    return Answer(answer.task_id, said)
