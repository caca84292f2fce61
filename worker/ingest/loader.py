"""One DataLoader and its life: built from the settings, iterated once, torn down within a bounded time."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from worker.ingest import child_deaths
from worker.ingest.batch import Batch, collate
from worker.ingest.dataset import ImageDataset
from worker.ingest.reservation import TaskSampler
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

TEARDOWN_LIMIT_S = 12.0


class LoaderError(Exception):
    """The loader could not be built, or failed while it held tasks; the text says why."""


def pins_memory(settings: WorkerSettings) -> bool:
    """Whether batches are pinned: as set, else where there is an accelerator.

    Asked of torch anew each time: what is patched in or plugged in later must count.
    """
    if settings.antenna_api_dataloader_pin_memory is not None:
        return settings.antenna_api_dataloader_pin_memory
    # torch.accelerator came with torch 2.6.
    accelerator = getattr(torch, "accelerator", torch.cuda)
    return bool(accelerator.is_available())


def build(settings: WorkerSettings, dataset: ImageDataset, sampler: TaskSampler) -> DataLoader[Any]:
    """The DataLoader that the settings ask for. Starts nothing yet: that is the iterator's doing."""
    common: dict[str, Any] = {
        "batch_sampler": sampler,
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
        persistent_workers=settings.antenna_api_dataloader_persistent_workers,
        worker_init_fn=in_loader_process,
    )


def in_loader_process(worker_id: int) -> None:
    """Runs first in each loader process: Ctrl-C reaches the whole group, but only the parent drains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="ami-parent", daemon=True).start()


def _end_with_parent() -> None:
    """End when the worker is killed.

    DataLoader's own watch asks for the parent process. Under forkserver that is the fork server, which lives
    as long as its children do: both stay for ever, with every batch that was loaded.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class JobLoader:
    """The batches of one job. Use as a context manager; iterate once."""

    def __init__(self, settings: WorkerSettings, sampler: TaskSampler) -> None:
        self._dataset = ImageDataset(settings.antenna_api_dataloader_download_threads)
        self._loader: DataLoader[Any] | None = build(settings, self._dataset, sampler)
        self._iterator: Iterator[Batch] | None = None
        # Which of gc's generations may hold something of this loader: the young ones, until it has worked.
        self._oldest = 1

    def __enter__(self) -> JobLoader:
        """Start the loader processes and reserve the first tasks.

        Raises:
            LoaderError: processes, pipes or shared memory could not be had.
        """
        assert self._loader is not None
        try:
            self._iterator = iter(self._loader)
            child_deaths.hold_back()
        except (OSError, RuntimeError, EOFError) as e:
            self._oldest = 2
            self.close()
            raise LoaderError(f"the loader could not be built: {type(e).__name__}: {e}") from e
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def next(self) -> Batch | None:
        """Wait for the next batch; None when there is no more.

        Raises:
            LoaderError: a loader process died, no batch came in time, or one could not be received.
        """
        assert self._iterator is not None
        try:
            with child_deaths.reported():
                _check_alive(self._iterator)
                batch = next(self._iterator, None)
        except Exception as e:
            # DataLoader re-raises what a loader process raised as its own type, whatever that is.
            self._oldest = 2
            raise LoaderError(f"{type(e).__name__}: {_first_line(e)}") from e
        if batch is not None:
            self._oldest = 2
        return batch

    def close(self) -> None:
        """Shut the loader processes and the pinning thread down, and give memory back."""
        iterator, self._iterator = self._iterator, None
        if iterator is not None:
            _shut_down(iterator)
        if self._loader is not None and self._loader._iterator is not None:
            self._loader._iterator = None
        self._loader = None
        self._dataset.close()
        del iterator
        # A full collection takes 0.1 to 0.2 s with torch loaded: not for every poll that finds no task.
        gc.collect(self._oldest)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _check_alive(iterator: Any) -> None:
    """See what torch cannot: a process that was reaped already, or is the fork server's child.

    Until an iteration has ended all its processes live; after that there is nothing to wait for.
    """
    dead = [p.pid for p in _processes(iterator) if not iterator._shutdown and not p.is_alive()]
    if dead:
        raise RuntimeError(f"DataLoader worker (pid(s) {', '.join(map(str, dead))}) has died")


def _processes(iterator: Any) -> Sequence[BaseProcess]:
    # Without loader processes the iterator has no such attribute.
    return getattr(iterator, "_workers", ())


def _shut_down(iterator: Any) -> None:
    """DataLoader's own shutdown, which may hang on a loader process that does not answer (FACTS 8)."""
    processes = _processes(iterator)
    if not processes:
        return
    killer = threading.Timer(TEARDOWN_LIMIT_S, _kill, [processes])
    killer.daemon = True
    killer.start()
    try:
        iterator._shutdown_workers()
    except (RuntimeError, OSError) as e:
        # Of a queue or process that broke before; it is being ended anyway.
        log.warning("a loader process did not end cleanly: %s", _first_line(e))
    finally:
        killer.cancel()
        killer.join()
        _kill(processes)


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            log.warning("loader process %s does not end: killed", process.pid)
            process.kill()
            process.join(TEARDOWN_LIMIT_S)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    if "Original Traceback" in str(error):
        # The loader process's own error is the last line of its traceback.
        return lines[-1].strip()
    return lines[0].strip() if lines else ""
