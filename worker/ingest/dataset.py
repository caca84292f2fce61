"""A request to a batch, inside a loader process: the files, their headers, one tensor, the pixels in their places."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from worker import caches
from worker.antenna.schemas import Task
from worker.caches import CacheSize
from worker.ingest import packing
from worker.ingest.batch import Batch, BatchRequest, Failure, LoaderReport
from worker.ingest.decode import DecodeError, Header, decode_into, read_header
from worker.ingest.download import DownloadError
from worker.ingest.image_files import ImageFiles
from worker.ingest.limits import ImageLimits


@dataclass(slots=True)
class _Image:
    """A task on its way: the bytes of its file until they are decoded, or what went wrong."""

    task: Task
    data: bytes | None = None
    header: Header | None = None
    error: str | None = None

    def fail(self, error: Exception) -> None:
        known = isinstance(error, DownloadError | DecodeError)
        self.error = f"failed to load image: {error if known else f'{type(error).__name__}: {error}'}"
        self.data = self.header = None


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
        self._executor: ThreadPoolExecutor | None = None
        self._files: ImageFiles | None = None

    def __getitem__(self, request: BatchRequest) -> Batch:
        return self.__getitems__(request)[0]

    def __getitems__(self, request: BatchRequest) -> list[Batch]:
        """The batch for a request, alone in a list. Never raises: what fails is a `Failure` of its task."""
        leftovers = caches.drain() if request.drain else {}
        try:
            return [self._load(request, leftovers)]
        except Exception as e:  # noqa: BLE001 - no batch must ever end a loader that holds others
            return [_failed(request, leftovers, e)]

    def close(self) -> None:
        """End the threads, connections and cache of this process. With loader processes there are none here."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        if self._files is not None:
            self._files.close()
            self._files = None

    def _load(self, request: BatchRequest, leftovers: Mapping[str, CacheSize]) -> Batch:
        images = [_Image(task) for task in request.tasks]
        started = time.monotonic()
        self._in_threads(lambda image: self._fetch(request.job_id, image), images)
        fetched = time.monotonic()
        file_bytes = sum(len(image.data) for image in images if image.data is not None)
        readable = [(image, image.header) for image in images if image.header is not None]
        fits = packing.fitting([header.bytes for _, header in readable], request.max_bytes)
        taken, deferred = readable[:fits], [image for image, _ in readable[fits:]]
        for image in deferred:
            image.data = None
        sizes = [header.bytes for _, header in taken]
        pixels, offsets = packing.flat(sum(sizes)), packing.offsets(sizes)
        self._in_threads(
            lambda place: self._decode(place[0][0], pixels[place[1] : place[1] + place[0][1].bytes]),
            list(zip(taken, offsets, strict=True)),
        )
        good = [(i.task, h, at) for (i, h), at in zip(taken, offsets, strict=True) if i.error is None]
        return Batch(
            pixels=pixels,
            shapes=tuple((header.height, header.width) for _, header, _ in good),
            offsets=tuple(at for _, _, at in good),
            tasks=tuple(task for task, _, _ in good),
            failures=tuple(Failure(i.task, i.error) for i in images if i.error is not None),
            deferred=tuple(image.task for image in deferred),
            report=_report(leftovers, fetched - started, time.monotonic() - fetched, file_bytes),
        )

    def _fetch(self, job_id: int, image: _Image) -> None:
        assert self._files is not None
        try:
            data = self._files.fetch(job_id, image.task)
            image.header = read_header(data, self._limits.max_pixels)
            image.data = data
            self._files.keep(image.task, data)
        except Exception as e:  # noqa: BLE001 - of this task only
            image.fail(e)

    def _decode(self, image: _Image, place: torch.Tensor) -> None:
        assert self._files is not None and image.data is not None and image.header is not None
        data, image.data = image.data, None
        try:
            out = place.numpy().reshape(image.header.height, image.header.width, 3)
            decode_into(data, image.header, out)
        except Exception as e:  # noqa: BLE001 - of this task only
            image.fail(e)
            self._files.forget(image.task)

    def _in_threads(self, work: Callable[[Any], None], items: Sequence[Any]) -> None:
        if not items:
            return
        if self._executor is None or self._files is None:
            self._files = ImageFiles(self._limits, self._threads, self._cache_bytes, self._staging_dir)
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="ami-image")
        for _ in self._executor.map(work, items):
            pass


def collate(batches: Sequence[Batch]) -> Batch:
    """The only batch that `__getitems__` gives."""
    return batches[0]


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
    why = f"failed to load image: {type(error).__name__}: {error}"
    return Batch(
        pixels=packing.flat(0),
        shapes=(),
        offsets=(),
        tasks=(),
        failures=tuple(Failure(task, why) for task in request.tasks),
        deferred=(),
        report=_report(leftovers),
    )
