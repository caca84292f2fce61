"""The posts that the server has not taken yet: the oldest in memory, all of them on disk once it fails."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worker.antenna.journal import Journal
from worker.antenna.schemas import Task
from worker.antenna.spool import Spool
from worker.antenna.spool_file import KeptAnswer, KeptPost

log = logging.getLogger(__name__)

_LOCK_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What is posted for one task: R of ANTENNA_API.md, a result or an error."""

    task_id: str
    result: Mapping[str, Any]


@dataclass(slots=True, eq=False)
class Post:
    """Answers to tasks of one job. `answers` is None where they are on disk only, in `file`.

    `left`: by an earlier worker. `tries`: how often the server did not take it; `broken`: how often that may have
    been the post's own fault, the last time when so many other posts had been `taken`; `blamed`: how often that
    number had grown meanwhile.
    """

    job_id: int
    ids: tuple[str, ...]
    answers: Sequence[Answer] | None
    file: Path | None = None
    left: bool = False
    tries: int = 0
    broken: int = 0
    taken: int = 0
    blamed: int = 0
    done: bool = False


class Pending:
    """Posts in the order in which they are to go. At most `max_pending` have their answers in memory, unless
    there is no room on disk for more.

    Its own thread posts, the main thread adds, and any thread may have all of it stored.
    """

    def __init__(self, journal: Journal, spool: Spool, max_pending: int) -> None:
        self._journal = journal
        self._spool = spool
        self._max_pending = max_pending
        self._posts: deque[Post] = deque()
        # Held while a post goes to disk, or away from there.
        self._storing = threading.Lock()

    def __len__(self) -> int:
        return len(self._posts)

    def __iter__(self) -> Iterator[Post]:
        return iter(self._posts.copy())

    @property
    def first(self) -> Post | None:
        """What is to be posted next."""
        return self._posts[0] if self._posts else None

    @property
    def has_room(self) -> bool:
        """Whether memory may take one more."""
        return sum(post.answers is not None for post in self) < self._max_pending

    def add(self, post: Post) -> None:
        """Behind what is there."""
        self._posts.append(post)

    def add_first(self, post: Post) -> None:
        """Before what is there."""
        self._posts.appendleft(post)

    def put_last(self, post: Post) -> None:
        """Let the others go first."""
        if self._posts[0] is post:
            # In one step: who waits for the last post must not find none.
            self._posts.rotate(-1)
        else:
            self._posts.remove(post)
            self._posts.append(post)

    def take_left(self) -> list[Post]:
        """What earlier workers have left in the spool, before all that is there. A task that was answered twice
        there keeps its older answer."""
        posts = []
        for file in self._spool.claim():
            kept = self._read(file)
            if kept is None:
                continue
            reserved_at = time.monotonic() - max(0.0, time.time() - kept.reserved_at)
            tasks = [Task(a.task_id, "", "", a.reply_subject) for a in kept.answers]
            ids = self._journal.adopt(kept.job_id, tasks, reserved_at)
            if ids:
                posts.append(Post(kept.job_id, tuple(ids), None, file, left=True))
            else:
                self._spool.remove(file)
        self._posts.extendleft(reversed(posts))
        return posts

    def answers(self, post: Post) -> Sequence[Answer] | None:
        """Those of a post, read from disk if need be; None where they are lost there, which has been said.

        Raises:
            OSError: they cannot be read now.
        """
        # Read once: another thread may have had them stored in between.
        answers = post.answers
        if answers is not None:
            return answers
        assert post.file is not None
        kept = self._spool.read(post.file)
        if kept is None:
            return None
        # In the order of the ids, each once, whatever somebody has made of the file.
        found = {a.task_id: Answer(a.task_id, a.result) for a in reversed(kept.answers)}
        return [found[task_id] for task_id in post.ids]

    def done(self, post: Post) -> None:
        """The post is with the server, or is not to be posted."""
        with self._locked():
            post.done = True
            with suppress(ValueError):
                self._posts.remove(post)
            if post.file is not None:
                self._spool.remove(post.file)

    def leave(self, post: Post) -> None:
        """Not to be posted by this worker: it stays on disk."""
        self._posts.remove(post)

    def replace(self, post: Post, parts: Sequence[Sequence[Answer]]) -> None:
        """Put several posts in the place of one."""
        new = [
            replace(post, ids=tuple(a.task_id for a in part), answers=part, file=None, blamed=0)
            for part in parts
        ]
        self._posts.extendleft(reversed(new))
        if post.file is not None:
            for one in new:
                self.store(one)
        self.done(post)

    def store(self, post: Post) -> bool:
        """Have a post on disk. False where that cannot be done, which the spool says."""
        with self._locked():
            if post.file is None and not post.done and post.answers is not None:
                post.file = self._spool.keep(self._kept(post))
            return post.file is not None

    def store_all(self) -> None:
        """Have all of it on disk, and in memory no more than is allowed."""
        in_memory = 0
        for post in self:
            if self.store(post) and in_memory >= self._max_pending:
                post.answers = None
            in_memory += post.answers is not None

    def clear(self) -> None:
        """Forget what is there; what is on disk stays there."""
        self._posts.clear()

    def _kept(self, post: Post) -> KeptPost:
        assert post.answers is not None
        now = time.monotonic()
        entries = self._journal.found(post.job_id, post.ids)
        subjects = [None if e is None else e.task.reply_subject for e in entries]
        oldest = min((e.reserved_at for e in entries if e is not None), default=now)
        answers = zip(post.answers, subjects, strict=True)
        return KeptPost(
            post.job_id,
            time.time() - (now - oldest),
            tuple(KeptAnswer(a.task_id, s, a.result) for a, s in answers),
        )

    def _read(self, file: Path) -> KeptPost | None:
        try:
            return self._spool.read(file)
        except OSError as e:
            log.warning("%s: cannot be read now, left to the next worker: %s", file, e)
            return None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        had = self._storing.acquire(timeout=_LOCK_LIMIT_S)
        # A disk that does not answer must not keep posts from going on: a file too many is the lesser evil.
        try:
            yield
        finally:
            if had:
                self._storing.release()
