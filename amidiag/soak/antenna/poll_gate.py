"""The lock-step gate: each `GET /jobs` waits here until the controller lets it go on.

A held poll sleeps in poll(2) on an eventfd and on its own connection, so it costs nothing while
it waits, and a worker that dies or gives up while it is held is noticed at once.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Sequence


class ClientGoneError(ConnectionError):
    """The worker closed the connection while its poll was held: there is nobody to answer."""


class _HeldPoll:
    __slots__ = ("jobs", "wake")

    def __init__(self) -> None:
        self.jobs: tuple[int, ...] | None = None
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


class PollGate:
    """Open until `hold()`. Held polls are released oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holding = False
        self._held: deque[_HeldPoll] = deque()

    def enter(self, connection: int) -> tuple[int, ...] | None:
        """Called by each poll; blocks while polls are held.

        `connection` is the FD of the poll's socket. Returns the jobs that the poll was released
        with (None: list what is there). Raises ClientGoneError.
        """
        with self._changed:
            if not self._holding:
                return None
            poll = _HeldPoll()
            self._held.append(poll)
            self._changed.notify_all()
        try:
            _sleep_until_released(poll.wake, connection)
            return poll.jobs
        finally:
            # Under the lock: whoever releases writes to the eventfd under it, so never to a closed one.
            with self._changed:
                if poll in self._held:
                    self._held.remove(poll)
                os.close(poll.wake)

    def hold(self) -> None:
        """From now on each poll waits."""
        with self._changed:
            self._holding = True

    def free(self) -> None:
        """Lets all held polls go on and holds no further one."""
        with self._changed:
            self._holding = False
            while self._held:
                self._release_oldest(None)

    def wait(self, timeout_s: float, count: int) -> bool:
        """True as soon as `count` polls are held, False when `timeout_s` is over."""
        with self._changed:
            return self._changed.wait_for(lambda: len(self._held) >= count, timeout_s)

    def release(self, jobs: Sequence[int] | None) -> bool:
        """Lets the oldest held poll go on, with these jobs as its list. False where none is held."""
        with self._changed:
            if not self._held:
                return False
            self._release_oldest(jobs)
            return True

    def waiting(self) -> int:
        """How many polls are held now."""
        with self._changed:
            return len(self._held)

    def _release_oldest(self, jobs: Sequence[int] | None) -> None:
        poll = self._held.popleft()
        poll.jobs = None if jobs is None else tuple(jobs)
        os.eventfd_write(poll.wake, 1)


def _sleep_until_released(wake: int, connection: int) -> None:
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    # Not POLLIN: a next request already sent on this connection is no reason to wake.
    poller.register(connection, select.POLLRDHUP)
    if any(fd == connection for fd, _ in poller.poll()):
        raise ClientGoneError("the worker went away while its poll was held")
