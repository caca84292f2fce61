"""SIGTERM, SIGINT and SIGUSR1: finish what is in hand, start nothing new. A second signal ends the process at once."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
import time
import weakref
from contextlib import suppress
from types import FrameType, TracebackType

from worker import exit_codes, poking
from worker.guard.leaving import kill_descendants

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
POKE_EVERY_S = 0.05
_END_LIMIT_S = 5.0


class StopWaiting(BaseException):
    """Raised in the main thread inside `Drain.interruptible`, to leave a wait for work not yet begun.

    No Exception: DataLoader, requests and urllib3 must let it through.
    """


class Drain:
    """Whether the worker has been told to end.

    Work in hand is never interrupted: only `requested` is set. Where the main thread merely waits (for a
    batch, for the server's answer to a poll, for the next poll) it does so inside `interruptible`, and
    `StopWaiting` is raised there. No event or condition is used, since a handler that runs while the main
    thread holds its lock would dead-lock.

    A Python handler for SIGTERM is not enough when a whole process group is told to end, as systemd does.
    The kernel may give the signal to any thread, and a main thread that waits in a system call learns of
    it when the call returns; and DataLoader's handler for SIGCHLD, which raises, may do so on top of ours
    before its first line. So a thread reads the signals from the pipe into which the C handler writes them,
    and pokes the main thread until that has left its wait.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waiting = False
        self._pipe: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None

    def install(self) -> None:
        """Take over the signals of this process, from its main thread. Forked children have no part in it."""
        reader, writer = self._pipe = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        poking.on_poke(self._on_poke)
        self._thread = threading.Thread(target=self._listen, args=(reader,), name="ami-drain", daemon=True)
        self._thread.start()
        for number in SIGNALS:
            signal.signal(number, _left_to_the_thread)
        _keep_out_of_forks(weakref.ref(self))

    def uninstall(self) -> None:
        """Give the signals back to Python's own handlers."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.set_wakeup_fd(-1)
        if self._pipe is not None and self._thread is not None:
            reader, writer = self._pipe
            os.close(writer)
            self._thread.join(_END_LIMIT_S)
            os.close(reader)
            self._pipe = self._thread = None
        poking.no_more(self._on_poke)

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

    def _listen(self, reader: int) -> None:
        more = select.poll()
        more.register(reader, select.POLLIN)
        while True:
            if self.requested and self._waiting:
                poking.poke()
                time.sleep(POKE_EVERY_S)
                if not more.poll(0):
                    continue
            numbers = os.read(reader, 64)
            if not numbers:
                return
            for number in numbers:
                if number in SIGNALS:
                    self._told(number)

    def _told(self, number: int) -> None:
        name = signal.Signals(number).name
        if self.requested:
            log.error("%s, the second signal: ended at once, what is in hand is left to the server", name)
            kill_descendants()
            os._exit(128 + number)
        self.requested = True
        log.info(
            "%s: the batch in hand is finished and posted; a second signal ends the worker at once", name
        )

    def _on_poke(self) -> None:
        if self.requested and self._waiting:
            self._waiting = False
            raise StopWaiting


def end_at_once(number: int, frame: FrameType | None) -> None:
    """A handler for the seconds before `Drain.install`: nothing is in hand yet, so this is a drain too."""
    # The line that it interrupts may be one of the log.
    with suppress(RuntimeError):
        log.info("%s before anything was begun: ended", signal.Signals(number).name)
    os._exit(exit_codes.DRAINED)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """Only with a handler in Python does the C handler write to the pipe."""


def _keep_out_of_forks(ref: weakref.ref[Drain]) -> None:
    """A signal to a forked child must not be read as one to its parent.

    Both have the same pipe until the child has let go of it: so long it holds the signals back.
    """
    forking = threading.local()

    def hold_back() -> None:
        forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def go_on() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, forking.mask)

    def forget() -> None:
        drain = ref()
        if drain is not None and drain._pipe is not None:
            signal.set_wakeup_fd(-1)
            for end in drain._pipe:
                os.close(end)
            drain._pipe = drain._thread = None
        go_on()

    os.register_at_fork(before=hold_back, after_in_parent=go_on, after_in_child=forget)
