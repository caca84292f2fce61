"""A DataLoader and its life: built when there is a task, used for many jobs, torn down within a bounded time."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from worker.exhaustion import exhausted
from worker.ingest import child_deaths, socket_directory, torch_atexit
from worker.ingest.batch import Batch
from worker.ingest.beat import Beats
from worker.ingest.dataset import ImageDataset, collate
from worker.ingest.limits import ImageLimits
from worker.ingest.loader_failure import TIMED_OUT, LoaderError, dead_of, explain, first_line, processes_of
from worker.ingest.loader_process import LoaderProcess
from worker.ingest.loader_watch import LoaderWatch, WaitEnded, WatchLimits
from worker.ingest.parent_death import may_be_asked
from worker.ingest.source import DrainSource, Feed, Source
from worker.ingest.teardown import kill, shut_down
from worker.settings import WorkerSettings

__all__ = ["Loader", "LoaderError", "build", "dataset_for", "pins_memory", "serves_many_jobs"]

log = logging.getLogger(__name__)

# torch looks whether its processes live only when a wait has run out: so a wait of ours is many short ones.
_LOOK_EVERY_S = 0.5


def pins_memory(settings: WorkerSettings) -> bool:
    """Whether batches are pinned: as set, else where there is an accelerator.

    Asked of torch anew each time: what is patched in or plugged in later must count.
    """
    if settings.antenna_api_dataloader_pin_memory is not None:
        return settings.antenna_api_dataloader_pin_memory
    # torch.accelerator came with torch 2.6.
    accelerator = getattr(torch, "accelerator", torch.cuda)
    return bool(accelerator.is_available())


def serves_many_jobs(settings: WorkerSettings) -> bool:
    """Whether one loader is kept from job to job."""
    return settings.antenna_api_dataloader_lifetime == "worker"


def build(settings: WorkerSettings, dataset: ImageDataset, feed: Feed, beats: Beats) -> DataLoader[Any]:
    """The DataLoader that the settings ask for. Starts nothing yet: that is the iterator's doing."""
    common: dict[str, Any] = {
        "batch_sampler": feed,
        "collate_fn": collate,
        "pin_memory": pins_memory(settings),
        "num_workers": settings.num_workers,
    }
    if settings.num_workers == 0:
        # DataLoader refuses all of the following where there are no loader processes.
        return DataLoader(dataset, **common)
    return DataLoader(
        dataset,
        **common,
        multiprocessing_context=settings.antenna_api_dataloader_mp_context or None,
        timeout=settings.antenna_api_dataloader_timeout_s,
        prefetch_factor=settings.antenna_api_dataloader_prefetch_factor,
        persistent_workers=serves_many_jobs(settings) or settings.antenna_api_dataloader_persistent_workers,
        worker_init_fn=LoaderProcess(beats, dies_with_parent=may_be_asked()),
    )


def dataset_for(settings: WorkerSettings) -> ImageDataset:
    """What a loader process works with, as the settings ask for it."""
    return ImageDataset(
        limits=ImageLimits.of(settings),
        threads=settings.antenna_api_dataloader_download_threads,
        cache_bytes=settings.image_cache_max_bytes,
        staging_dir=settings.staging_dir,
    )


class Loader:
    """Batches of one job after another, by the same loader processes.

    Use as a context manager, or `close` it. After a `LoaderError` it is closed; `begin` builds it anew.
    `built` is called when a DataLoader was built.
    """

    def __init__(self, settings: WorkerSettings, built: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._built = built
        self._feed = Feed()
        self._source: Source | None = None
        self._dataset: ImageDataset | None = None
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None
        self._beats: Beats | None = None
        self._said: str | None = None
        self._watch = LoaderWatch(
            WatchLimits.of(settings.visibility_timeout_s, settings.antenna_api_dataloader_timeout_s)
        )
        # Which of gc's generations may hold something of this loader: the young ones, until it has worked.
        self._oldest = 1

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def processes(self) -> Sequence[BaseProcess]:
        """The loader processes that there are now."""
        return processes_of(self._iterator)

    @property
    def longest_wait_s(self) -> float:
        """How long `wait` takes at most, as the DataLoader's time limit is set."""
        return self._settings.antenna_api_dataloader_timeout_s or math.inf

    def begin(self, source: Source) -> None:
        """Take what to load from `source` from now on; builds the loader if there is none.

        Raises:
            LoaderError: processes, pipes or shared memory could not be had.
        """
        if self._iterator is not None and (_is_in_flight(self._iterator) or dead_of(self._iterator)):
            # Left half way: what still comes is of another job. Or it died while there was nothing to do.
            self.close()
        self._source = source
        self._feed.ready.clear()
        if self.processes:
            # The iteration goes on by itself when there is something again: no process has to be asked.
            return
        try:
            self._build()
        except (OSError, RuntimeError, EOFError, WaitEnded) as e:
            ours = exhausted(e)
            self._oldest = 2
            self.close()
            why = f"{ours} ({first_line(e)})" if ours else f"{type(e).__name__}: {first_line(e)}"
            raise LoaderError(f"the loader could not be built: {why}", exhausted=ours) from e
        if self._settings.avoid_torch_atexit_leak:
            torch_atexit.take_back(self._iterator)

    def _build(self) -> None:
        if self._loader is None:
            self._dataset = dataset_for(self._settings)
            self._beats = self._new_beats()
            self._loader = build(self._settings, self._dataset, self._feed, self._beats)
            self._built()
        if self._settings.num_workers:
            self._watch.start()
            socket_directory.make_sure()
        with self._watch.building():
            self._iterator = iter(self._loader)
        child_deaths.hold_back()
        assert self._beats is not None
        self._watch.of(self._iterator, self.processes, self._beats)

    def _new_beats(self) -> Beats:
        beats = Beats(self._settings.num_workers)
        if beats.error is not None and beats.error != self._said:
            self._said = beats.error
            log.warning(
                "no signs of life of the loader processes (%s): only their time limit holds", beats.error
            )
        return beats

    def ask(self) -> None:
        """Hand out what the source gives now, as far as there is room. May wait as the source does."""
        assert self._source is not None
        iterator = self._iterator
        room = iterator._prefetch_factor * iterator._num_workers if self.processes else 1
        while (iterator._tasks_outstanding if self.processes else len(self._feed.ready)) < room:
            request = self._source.next_request()
            if request is None:
                return
            self._feed.ready.append(request)
            if self.processes:
                # DataLoader itself asks only once for each batch that has come.
                iterator._try_put_index()

    def wait(self, interruptible: AbstractContextManager[object] | None = None) -> Batch | None:
        """Wait for the next batch that was asked for; None when none was.

        `interruptible`: a context in which a signal may end the wait; the end of a loader that failed is not in it.

        Raises:
            LoaderError: a loader process died, no batch came in time, or one could not be received.
        """
        try:
            with child_deaths.reported(), self._watch.waiting(), interruptible or nullcontext():
                _check_alive(self._iterator)
                if self.processes and not _is_in_flight(self._iterator):
                    # DataLoader would end processes that are not to stay, and wait for them without a limit.
                    return None
                batch = self._within_limit()
        except (Exception, WaitEnded) as e:
            # DataLoader re-raises what a loader process raised as its own type, whatever that is.
            error = explain(self._iterator, self._beats, self._watch.trouble, e)
            self._oldest = 2
            # Nothing that is in it is of use any more: its processes need not be asked.
            kill(self.processes, "of a loader that failed")
            self.close()
            raise error from e
        if batch is not None:
            self._oldest = 2
        return batch

    def _within_limit(self) -> Batch | None:
        limit = self._settings.antenna_api_dataloader_timeout_s
        end = time.monotonic() + limit
        while True:
            if self.processes and limit:
                self._iterator._timeout = max(0.01, min(_LOOK_EVERY_S, end - time.monotonic()))
            try:
                batch: Batch | None = next(self._iterator, None)
            except RuntimeError as e:
                if not (self.processes and str(e).startswith(TIMED_OUT)):
                    raise
                _check_alive(self._iterator)
                if time.monotonic() >= end:
                    raise RuntimeError(f"{TIMED_OUT} after {limit} seconds") from e
            else:
                return batch

    def next(self) -> Batch | None:
        """Ask, wait, and tell the source; None when it has no more.

        Raises:
            LoaderError: as `wait`.
        """
        self.ask()
        batch = self.wait()
        if batch is not None and self._source is not None:
            self._source.arrived(batch)
        return batch

    def drain_caches(self, job_id: int) -> list[Batch]:
        """Have every loader process empty its caches; what each says of itself. All batches must have come.

        Raises:
            LoaderError: as `next`.
        """
        if not self.processes:
            return []
        self.begin(DrainSource(job_id, len(self.processes)))
        return list(iter(self.next, None))

    def close(self) -> None:
        """Shut the loader processes and the pinning thread down, and give memory back."""
        iterator, self._iterator = self._iterator, None
        # Before: it would take an end for a death.
        self._watch.stop()
        if iterator is not None:
            shut_down(iterator)
        if self._beats is not None:
            self._beats.close()
            self._beats = None
        if self._loader is not None:
            self._loader._iterator = None
            self._loader = None
        if self._dataset is not None:
            self._dataset.close()
            self._dataset = None
        self._source = None
        self._feed.ready.clear()
        if iterator is None:
            return
        del iterator
        # A full collection takes 0.1 to 0.2 s with torch loaded: not for every poll that finds no task.
        gc.collect(self._oldest)
        self._oldest = 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _is_in_flight(iterator: Any) -> bool:
    """Whether a batch was asked for and has not been given out."""
    return bool(processes_of(iterator)) and iterator._rcvd_idx < iterator._send_idx


def _check_alive(iterator: Any) -> None:
    """See what torch cannot: a process that was reaped already, or is the fork server's child."""
    dead = [str(processes_of(iterator)[number].pid) for number in dead_of(iterator)]
    if dead:
        raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(dead)}) has died")
