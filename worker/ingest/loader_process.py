"""What a loader process does beside loading: it shows signs of life, and ends rather than lose a batch in silence."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from multiprocessing import util
from multiprocessing.queues import Queue
from typing import Any

from worker.ingest import beat
from worker.ingest.beat import Beats
from worker.ingest.parent_death import die_with_parent

_LOOK_EVERY_S = 0.5
_FEEDER = "QueueFeederThread"


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
        Queue._on_queue_feeder_error = staticmethod(_feeder_failed)  # type: ignore[attr-defined]
        threading.Thread(target=_watch, name="ami-parent", daemon=True).start()


def _feeder_failed(error: BaseException, batch: Any) -> None:
    _end(f"a batch could not be sent: {type(error).__name__}: {' '.join(str(error).split())}")


def _watch() -> None:
    """End when the worker is gone, or when the thread that sends the batches is.

    DataLoader's own watch asks for the parent process. Under forkserver that is the fork server, which lives
    as long as its children do: both would stay for ever, with every batch that was loaded.
    """
    parent = multiprocessing.parent_process()
    feeder: threading.Thread | None = None
    while parent is not None:
        parent.join(_LOOK_EVERY_S)
        if not parent.is_alive():
            _end("the worker is gone")
        feeder = feeder or next((t for t in threading.enumerate() if t.name == _FEEDER), None)
        if feeder is not None and not feeder.is_alive() and not util.is_exiting():
            _end("the thread that sends its batches has ended")


def _end(why: str) -> None:
    beat.ends(why)
    os._exit(1)
