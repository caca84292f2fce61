"""The end of a DataLoader's iterator and of its processes, within a bounded time."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any

from worker.ingest.loader_failure import first_line, processes_of
from worker.ingest.loader_watch import is_stopped

log = logging.getLogger(__name__)

LIMIT_S = 5.0
_LOOK_EVERY_S = 0.2
# So long a pinning thread may need to see that it is to end.
_FREED_AFTER_S = 1.0


def shut_down(iterator: Any) -> None:
    """DataLoader's own shutdown, which may hang: on a process that is stopped or does not answer, or on its pinning
    thread when that reads what a dead process has written half (FACTS 8). What still hangs is left behind."""
    processes = processes_of(iterator)
    if not processes:
        return
    ending = threading.Thread(target=_end, args=[iterator], name="ami-teardown", daemon=True)
    ending.start()
    limit = time.monotonic() + LIMIT_S
    while ending.is_alive() and time.monotonic() < limit and any(p.is_alive() for p in processes):
        kill([p for p in processes if p.pid is not None and is_stopped(p.pid)], "is stopped")
        ending.join(_LOOK_EVERY_S)
    kill(processes, "does not end")
    ending.join(_FREED_AFTER_S)
    if ending.is_alive():
        _free(iterator)
        ending.join(LIMIT_S)
    if ending.is_alive():
        log.error("the shutdown of a loader hangs: it is left behind, with its pipes and its pinning thread")


def kill(processes: Sequence[BaseProcess], why: str) -> None:
    """End those that live at once; `why` completes the sentence that is logged."""
    for process in processes:
        if process.is_alive():
            log.warning("loader process %s %s: killed", process.pid, why)
            process.kill()
            process.join(LIMIT_S)


def _end(iterator: Any) -> None:
    try:
        iterator._shutdown_workers()
    except (RuntimeError, OSError) as e:
        # Of a queue or process that broke before; it is being ended anyway.
        log.warning("a loader process did not end cleanly: %s", first_line(e))


def _free(iterator: Any) -> None:
    """Let go of who waits for a process that was killed: it may have held the lock of the queue, or have written half.

    The worker itself holds the writing end, so whoever reads would never see the end of it.
    """
    queue = iterator._worker_result_queue
    queue.cancel_join_thread()
    with suppress(ValueError):
        queue._wlock.release()  # nobody held it
    # Not closed: the number would be free for others while threads of the queue still use it.
    with suppress(OSError):  # at EMFILE, or closed by now
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.dup2(nowhere, queue._writer.fileno(), inheritable=False)
        finally:
            os.close(nowhere)
