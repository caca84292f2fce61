"""A request to a batch, inside a loader process: the files, their headers, one tensor, the pixels in their places."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset, get_worker_info

from worker import caches
from worker.antenna.schemas import Task
from worker.caches import CacheSize
from worker.exhaustion import ExhaustedError, exhausted, findable, short_of_fds
from worker.ingest import beat, packing
from worker.ingest.batch import Batch, BatchRequest, Failure, LoaderReport
from worker.ingest.decode import DecodeError, Header, decode_into, read_header
from worker.ingest.download import DownloadError
from worker.ingest.heap import give_back_large_pieces
from worker.ingest.image_files import ImageFiles
from worker.ingest.limits import ImageLimits


@dataclass(slots=True)
class _Image:
    """A task on its way: the bytes of its file until they are decoded, or what went wrong.

    `at`: where its pixels begin in the tensor; None as long as it has no place there.
    """

    task: Task
    data: bytes | None = None
    header: Header | None = None
    at: int | None = None
    error: str | None = None

    def fail(self, error: Exception) -> None:
        self.data = None
        self.error = _in_words(error)


class _Tools:
    """What the work is done with, in the process that does it."""

    def __init__(self, limits: ImageLimits, threads: int, cache_bytes: int, staging_dir: str) -> None:
        if get_worker_info() is not None:
            give_back_large_pieces()
        self.executor = ThreadPoolExecutor(threads, thread_name_prefix="ami-image")
        self.files = ImageFiles(limits, threads, cache_bytes, staging_dir)
        # More at a time than there are CPUs are no faster, and most need memory beside the batch: a progressive
        # JPEG for its coefficients, one that lies on its side for the way up, Pillow for four bytes a pixel.
        self.decoding = threading.Semaphore(len(os.sched_getaffinity(0)))

    def close(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)
        self.files.close()


class ImageDataset(Dataset[Any]):
    """A map-style dataset whose keys are `BatchRequest`s.

    It is pickled to loader processes (forkserver, spawn) or copied by fork, so threads, connections and the
    cache are made where they are first used, and never before a fork.
    """

    def __init__(self, limits: ImageLimits, threads: int, cache_bytes: int, staging_dir: str) -> None:
        self._limits = limits
        self._threads = threads
        self._cache_bytes = cache_bytes
        self._staging_dir = staging_dir
        self._tools: _Tools | None = None

    def __getitem__(self, request: BatchRequest) -> Batch:
        return self.__getitems__(request)[0]

    def __getitems__(self, request: BatchRequest) -> list[Batch]:
        """The batch for a request, alone in a list. What fails is a `Failure` of its task.

        Raises:
            ExhaustedError: this process or machine has run out of something. That is no answer for an image.
        """
        with beat.loading():
            leftovers = caches.drain() if request.drain else {}
            try:
                return [self._load(request, leftovers)]
            except ExhaustedError:
                raise
            except Exception as e:  # noqa: BLE001 - no batch must ever end a loader that holds others
                _raise_if_ours(e)
                return [_failed(request, leftovers, e)]

    def close(self) -> None:
        """End the threads, connections and cache of this process. With loader processes there are none here."""
        if self._tools is not None:
            self._tools.close()
            self._tools = None

    def _load(self, request: BatchRequest, leftovers: Mapping[str, CacheSize]) -> Batch:
        if not request.tasks:
            return _batch([], packing.flat(0), _report(leftovers))
        if self._tools is None:
            self._tools = _Tools(self._limits, self._threads, self._cache_bytes, self._staging_dir)
        images = [_Image(task) for task in request.tasks]
        started = time.monotonic()
        self._in_threads(partial(self._fetch, self._tools, request.job_id), images)
        fetched = time.monotonic()
        file_bytes = sum(len(image.data) for image in images if image.data is not None)
        pixels = _give_places([image for image in images if image.error is None], request.max_bytes)
        placed = [image for image in images if image.at is not None]
        self._in_threads(partial(self._decode, self._tools, pixels), placed)
        report = _report(leftovers, fetched - started, time.monotonic() - fetched, file_bytes)
        return _batch(images, pixels, report)

    def _in_threads(self, work: Callable[[_Image], None], images: Sequence[_Image]) -> None:
        assert self._tools is not None
        for _ in self._tools.executor.map(work, images):
            pass

    def _fetch(self, tools: _Tools, job_id: int, image: _Image) -> None:
        try:
            image.data = tools.files.fetch(job_id, image.task)
            image.header = read_header(image.data, self._limits.max_pixels)
        except Exception as e:  # noqa: BLE001 - of this task only
            _raise_if_ours(e)
            image.fail(e)
            tools.files.forget(image.task)
        beat.alive()

    def _decode(self, tools: _Tools, pixels: torch.Tensor, image: _Image) -> None:
        assert image.data is not None and image.header is not None and image.at is not None
        try:
            place = pixels[image.at : image.at + image.header.bytes].numpy()
            with tools.decoding:
                decode_into(
                    image.data, image.header, place.reshape(image.header.height, image.header.width, 3)
                )
        except Exception as e:  # noqa: BLE001 - of this task only
            _raise_if_ours(e)
            image.fail(e)
            tools.files.forget(image.task)
        finally:
            beat.alive()
            # Of no use any longer, and as large as a batch together.
            image.data = None


def collate(batches: Sequence[Batch]) -> Batch:
    """The only batch that `__getitems__` gives."""
    return batches[0]


def _give_places(images: Sequence[_Image], max_bytes: int | None) -> torch.Tensor:
    """Make the tensor; images without a place in it are for another batch, and let go of their bytes."""
    sizes = [image.header.bytes for image in images if image.header is not None]
    try:
        pixels, offsets = packing.allot(sizes, max_bytes)
    except packing.NoRoomError as e:
        if not packing.never_fits(sizes[0]):
            _raise_if_ours(e)
        images[0].fail(e)
        pixels, offsets = packing.flat(0), ()
    for image, at in zip(images, offsets, strict=False):
        image.at = at
    for image in images[len(offsets) :]:
        image.data = None
    return pixels


def _batch(images: Sequence[_Image], pixels: torch.Tensor, report: LoaderReport) -> Batch:
    good = [(i.task, i.header, i.at) for i in images if i.error is None and i.header and i.at is not None]
    return Batch(
        pixels=pixels,
        shapes=tuple((header.height, header.width) for _, header, _ in good),
        offsets=tuple(at for _, _, at in good),
        tasks=tuple(task for task, _, _ in good),
        failures=tuple(Failure(image.task, image.error) for image in images if image.error is not None),
        deferred=tuple(image.task for image in images if image.error is None and image.at is None),
        report=report,
    )


def _report(
    leftovers: Mapping[str, CacheSize], download_s: float = 0.0, decode_s: float = 0.0, file_bytes: int = 0
) -> LoaderReport:
    return LoaderReport(
        pid=os.getpid(),
        download_s=download_s,
        decode_s=decode_s,
        file_bytes=file_bytes,
        caches=caches.sizes(),
        to_drain=bool(caches.unbounded()),
        leftovers=leftovers,
    )


def _failed(request: BatchRequest, leftovers: Mapping[str, CacheSize], error: Exception) -> Batch:
    images = [_Image(task, error=_in_words(error)) for task in request.tasks]
    return _batch(images, packing.flat(0), _report(leftovers))


def _raise_if_ours(error: Exception) -> None:
    """Raise where an image failed because this process or machine has run out of something."""
    ours = exhausted(error) or short_of_fds()
    if ours is not None:
        raise ExhaustedError(findable(ours)) from error


def _in_words(error: Exception) -> str:
    known = isinstance(error, DownloadError | DecodeError | packing.NoRoomError)
    return f"failed to load image: {error if known else f'{type(error).__name__}: {error}'}"
