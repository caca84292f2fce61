"""SIGTERM and SIGINT: finish what is in hand, start nothing new. A second signal ends the process at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopWaiting(BaseException):
    """Raised by the signal handler inside `Drain.interruptible`, to leave a wait for work not yet begun.

    No Exception: DataLoader, requests and urllib3 must let it through.
    """


class Drain:
    """Whether the worker has been told to end.

    Work in hand is never interrupted: the handler only sets `requested`. Where the main thread merely
    waits (for a batch, for the server's answer to a poll, for the next poll) it does so inside
    `interruptible`, and the handler raises `StopWaiting` there. No event or condition is used, since a
    handler that runs while the main thread holds its lock would dead-lock.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._pid = os.getpid()

    def install(self) -> None:
        """Take over the signals of this process. Forked loader processes ignore what they inherit."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def interruptible(self) -> Drain:
        """A context in which a signal raises `StopWaiting`; raised on entry where one came before."""
        return self

    def sleep(self, seconds: float) -> None:
        """Sleep, but not longer than until a signal."""
        try:
            with self.interruptible():
                time.sleep(seconds)
        except StopWaiting:
            return

    def __enter__(self) -> None:
        self._waiting = True
        if self.requested:
            self._waiting = False
            raise StopWaiting

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        if self.requested:
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + number)
        self.requested = True
        if self._waiting:
            self._waiting = False
            raise StopWaiting
