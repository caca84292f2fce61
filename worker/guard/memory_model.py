"""The memory model: what a worker will use, before it uses it."""

from __future__ import annotations

from typing import Final

from worker.settings import WorkerSettings

MIB: Final = 1024**2
PARENT_BASE: Final = 146 * MIB
LOADER_BASE: Final = 180 * MIB
HELPERS: Final = 13 * MIB
PIPELINE_WORK: Final = 384 * MIB


def batches_in_memory(depth: int, loaders: int, *, pinned: bool) -> int:
    """How many batches there are at most: `depth` with the loader, one being worked on, one being pinned."""
    return (depth + 1 if loaders else 1) + (1 if pinned else 0)


def fixed_bytes(settings: WorkerSettings, own: int = 0) -> int:
    """What the worker uses beside batches in flight."""
    loaders = settings.num_workers
    helpers = HELPERS if loaders and settings.antenna_api_dataloader_mp_context != "fork" else 0
    each = LOADER_BASE + settings.image_cache_max_bytes
    return (
        max(own, PARENT_BASE) + PIPELINE_WORK + helpers + (loaders * each or settings.image_cache_max_bytes)
    )
