"""Told to end: whichever thread the kernel tells, and whatever other handler runs at the same moment."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from types import FrameType
from typing import Any

import pytest

from worker import draining, poking
from worker.draining import Drain

pytestmark = pytest.mark.timeout(60)

# Runs in a forked child before what a drain does there, as it is registered first.
first_in_child: list[Callable[[], None]] = []
os.register_at_fork(after_in_child=lambda: [act() for act in first_in_child])


@pytest.fixture
def drain() -> Iterator[Drain]:
    drain = Drain()
    drain.install()
    yield drain
    drain.uninstall()


def soon(act: Callable[..., Any], *args: Any) -> threading.Timer:
    timer = threading.Timer(0.1, act, args)
    timer.start()
    return timer


def test_a_signal_ends_a_sleep_and_the_next_one_does_not_begin(drain: Drain) -> None:
    alarm = soon(os.kill, os.getpid(), signal.SIGTERM)
    drain.sleep(600)
    drain.sleep(600)
    assert drain.requested
    alarm.join()


@pytest.mark.parametrize("number", draining.SIGNALS)
def test_a_signal_that_another_thread_receives_ends_the_sleep_of_the_main_thread(
    drain: Drain, number: signal.Signals
) -> None:
    """The kernel does so where the main thread has another signal pending."""
    alarm = soon(lambda: signal.pthread_kill(threading.get_ident(), number))
    drain.sleep(600)
    assert drain.requested
    alarm.join()


def test_a_handler_that_raises_on_top_of_ours_does_not_lose_the_signal(drain: Drain) -> None:
    """As DataLoader's for SIGCHLD, when the loader processes are told to end at the same moment."""

    def child_died(number: int, frame: FrameType | None) -> None:
        raise RuntimeError("a loader process died")

    def child_dies(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename == draining.__file__:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGCHLD)

    before = signal.signal(signal.SIGCHLD, child_died)
    sys.setprofile(child_dies)
    try:
        with contextlib.suppress(RuntimeError):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGCHLD, before)
    drain.sleep(600)
    assert drain.requested


def signal_myself() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_to_a_forked_child_is_not_one_to_the_worker(drain: Drain) -> None:
    """Neither while it is being forked nor later: a whole group may be told to end at any moment."""
    before = set(os.listdir("/proc/self/fd"))
    first_in_child.append(signal_myself)
    child = get_context("fork").Process(target=signal_myself)
    child.start()
    first_in_child.clear()
    child.join(30)
    assert child.exitcode == 0
    child.close()
    drain.sleep(0.3)
    assert not drain.requested
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_was_installed_can_be_taken_back() -> None:
    def state() -> tuple[Any, ...]:
        handlers = [signal.getsignal(n) for n in (*draining.SIGNALS, poking.SIGNAL)]
        return (handlers, threading.active_count(), len(os.listdir("/proc/self/fd")))

    before, drain = state(), Drain()
    drain.install()
    assert state() != before
    drain.uninstall()
    assert state() == before
