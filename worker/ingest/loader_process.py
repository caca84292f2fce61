"""What a loader process does beside loading: it shows signs of life, and ends rather than lose a batch in silence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

from worker.exhaustion import exhausted, findable
from worker.ingest import beat
from worker.ingest.beat import Beats
from worker.ingest.parent_death import die_with_parent


@dataclass(frozen=True, slots=True)
class LoaderProcess:
    """DataLoader's `worker_init_fn`: runs first in each loader process.

    `dies_with_parent`: whether the kernel is to end it when its parent ends.
    """

    beats: Beats
    dies_with_parent: bool

    def __call__(self, number: int) -> None:
        # Ctrl-C reaches the whole group, but only the parent drains.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.dies_with_parent:
            die_with_parent()
        self.beats.take(number)
        # multiprocessing prints the error, drops the batch and goes on: the worker would wait for it (FACTS 8).
        queue: Any = Queue
        queue._on_queue_feeder_error = staticmethod(_feeder_failed)
        queue._feed = staticmethod(partial(_feed, queue._feed))
        # Nothing else calls it here than the thread that hands out the FDs of batches (resource_sharer): it would print
        # the error, as often as it cannot accept a connection, and the worker wait for the FD.
        sys.excepthook = _sharer_failed
        threading.Thread(target=_end_with_parent, name="ami-parent", daemon=True).start()


def _feed(own: Callable[..., None], *args: Any) -> None:
    """The thread that sends the batches. It returns when the process ends in good order, and only then."""
    try:
        own(*args)
    except BaseException as e:  # noqa: BLE001 - whatever it is, there is nobody left to send anything
        _end("the thread that sends its batches has ended", e)


def _feeder_failed(error: BaseException, batch: Any) -> None:
    _end("a batch could not be sent", error)


def _sharer_failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _end("a batch could not be handed over", error)


def _end_with_parent() -> None:
    """End when the worker is gone.

    DataLoader's own watch asks for the parent process. Under forkserver that is the fork server, which lives
    as long as its children do: both would stay for ever, with every batch that was loaded.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _end(what: str, error: BaseException) -> None:
    ours = exhausted(error)
    why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    beat.ends(f"{what}: {why}" if ours is None else f"{what}: {findable(ours)}, {why}")
    os._exit(1)
