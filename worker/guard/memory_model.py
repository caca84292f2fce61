"""The memory model: what a worker will use at most, before it uses it.

Private memory of every process of the tree, and shared memory once; libraries, which are page cache, are not in it.

    batch    = images × pixels × 3 × bytes per value          no more than `batch_bytes`, but one image at least
    depth    = prefetch × loaders                              or what the tuner allows
    /dev/shm = (depth + 1) × batch                             what waits or is being loaded, and one worked on
    pinned   = (depth + 1) × batch, up to a power of two each  page-locked copies; /dev/shm then depth × batch
    parent   = PARENT_BASE + pipeline
    loader   = LOADER_BASE + max(cache, files) + files         files = images × bytes of a file: all of a batch
                                                               are fetched first, and grow as they come; the
                                                               cache holds the same bytes, not a copy
    pipeline = WORK_PER_PIXEL × reduced pixels × images at once + 3 × reduced pixels × images
    total    = /dev/shm + pinned + parent + loaders × loader + helpers

An image is decoded straight into its place in the batch: there is no second copy, and of a JPEG no more than some
rows besides. Without loader processes there is one batch at a time, in the parent's private memory.

The bases were measured (benchmarks/ingest_memory.py, CPython 3.11, torch 2.13 for CPU); docs/memory.md has the tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from worker.guard.words import size_in_words
from worker.settings import WorkerSettings

MIB: Final = 1024**2
PARENT_BASE: Final = 156 * MIB
"""The interpreter with torch and the worker's modules."""
LOADER_BASE: Final = 157 * MIB
"""A loader process: the same imported anew, or as a fork the parent's pages, which count again."""
HELPERS: Final = {"forkserver": 12 * MIB, "spawn": 6 * MIB}
"""Fork server and resource tracker, by start method."""
WORK_PER_PIXEL: Final = 52
"""Bytes that the detector needs for a pixel of a reduced image, while it works on it."""
REDUCED_PIXELS: Final = 1024 * 768
"""To so many the detector reduces what is larger."""
CHANNELS: Final = 3


@dataclass(frozen=True, slots=True)
class Case:
    """What the model is asked about. Sizes in bytes.

    `pixels` and `file_bytes` of one image; `value_bytes` of one value of a pixel, 1 for uint8 and 4 for float32.
    `depth` and `batch_bytes`: what the tuner allows, None for prefetch × loaders and no limit. `cache_bytes`:
    what the cache of a loader process will hold. `at_once`: images that the detector takes at a time, 0 where it
    works on an accelerator. `work_bytes`: what the pipeline needs for each of them, None for what the built-in ones
    do. `parent_bytes`: private memory of the worker with its pipeline.
    """

    pixels: int
    file_bytes: int
    batch: int
    prefetch: int
    loaders: int
    value_bytes: int = 1
    pinned: bool = False
    cache_bytes: int = 0
    at_once: int = 0
    start_method: str = "forkserver"
    depth: int | None = None
    batch_bytes: int | None = None
    work_bytes: int | None = None
    parent_bytes: int = PARENT_BASE

    @property
    def image_bytes(self) -> int:
        """Of one image as pixels."""
        return self.pixels * CHANNELS * self.value_bytes

    @property
    def images(self) -> int:
        """How many images of the batch come at once."""
        if self.batch_bytes is None:
            return self.batch
        return max(1, min(self.batch, self.batch_bytes // self.image_bytes))


@dataclass(frozen=True, slots=True)
class Prediction:
    """Peak bytes. `math`: how they come about, a line each. `loaders`: all loader processes together."""

    dev_shm: int
    parent: int
    loaders: int
    helpers: int
    pinned: int
    math: tuple[str, ...]

    @property
    def total(self) -> int:
        """All together."""
        return self.dev_shm + self.parent + self.loaders + self.helpers + self.pinned


def predict(case: Case) -> Prediction:
    """What a worker with these figures uses at its peak."""
    batch = case.images * case.image_bytes
    depth = case.depth if case.depth is not None else case.prefetch * max(1, case.loaders)
    pipeline = pipeline_bytes(case.pixels, case.images, case.at_once)
    if case.work_bytes is not None:
        pipeline = case.work_bytes * min(case.images, case.at_once)
    own = case.parent_bytes + pipeline
    files = case.batch * case.file_bytes
    held = max(case.cache_bytes, files)
    if case.loaders:
        shm = (depth if case.pinned else depth + 1) * batch
        parent, loaders = own, case.loaders * (LOADER_BASE + held + files)
    else:
        shm, parent, loaders = 0, own + held + files + batch, 0
    copies = batches_in_memory(depth, case.loaders, pinned=False) if case.pinned else 0
    return Prediction(
        dev_shm=shm,
        parent=parent,
        loaders=loaders,
        helpers=helper_bytes(case.loaders, case.start_method),
        pinned=copies * _power_of_two(batch),
        math=_math(case, batch, depth, shm, own),
    )


def batches_in_memory(depth: int, loaders: int, *, pinned: bool) -> int:
    """How many batches there are at most: `depth` with the loader, one being worked on, one being pinned."""
    return (depth + 1 if loaders else 1) + (1 if pinned else 0)


def pipeline_bytes(pixels: int, images: int, at_once: int) -> int:
    """What a built-in pipeline needs on the CPU for a batch, while it works; 0 with `at_once` 0."""
    reduced = min(pixels, REDUCED_PIXELS)
    return (WORK_PER_PIXEL * min(images, at_once) + CHANNELS * images) * reduced if at_once else 0


def helper_bytes(loaders: int, start_method: str) -> int:
    """What the processes use that only start and track others."""
    return HELPERS.get(start_method, 0) if loaders else 0


def fixed_bytes(settings: WorkerSettings, own: int = 0) -> int:
    """What the worker uses beside files and pixels in flight. `own`: private memory of the parent now, if known."""
    loaders, at_once = settings.num_workers, settings.localization_batch_size
    pipeline = pipeline_bytes(REDUCED_PIXELS, at_once, at_once)
    caches = settings.image_cache_max_bytes * max(1, loaders)
    helpers = helper_bytes(loaders, settings.antenna_api_dataloader_mp_context)
    return max(own, PARENT_BASE) + pipeline + loaders * LOADER_BASE + caches + helpers


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


def _math(case: Case, batch: int, depth: int, shm: int, own: int) -> tuple[str, ...]:
    said = size_in_words
    where = "/dev/shm" if case.loaders else "in the worker itself"
    count = shm // batch if case.loaders and batch else 1
    files = case.batch * case.file_bytes
    lines = [
        f"one image: {case.pixels:,} pixels × {CHANNELS} × {case.value_bytes} = {said(case.image_bytes)}",
        f"one batch: {case.images} × {said(case.image_bytes)} = {said(batch)}",
        f"{where}: {count} × {said(batch)} = {said(count * batch)}"
        + (f" ({depth} with the loader, 1 being worked on)" if case.loaders and not case.pinned else ""),
        f"the worker: {said(case.parent_bytes)} + {said(own - case.parent_bytes)} for the pipeline = {said(own)}",
    ]
    if case.loaders:
        lines.append(
            f"loader processes: {case.loaders} × ({said(LOADER_BASE)} + {said(max(case.cache_bytes, files))} for "
            f"the cache or {case.batch} files, the larger, + {said(files)} while they come)"
        )
    if case.pinned:
        lines.append(f"page-locked: {depth + 1} × {said(_power_of_two(batch))}")
    return tuple(lines)
