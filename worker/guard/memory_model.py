"""The memory model: what a worker will use, before it uses it."""

from __future__ import annotations

from typing import Final

from worker.settings import WorkerSettings

MIB: Final = 1024**2
PARENT_BASE: Final = 160 * MIB
LOADER_BASE: Final = 180 * MIB
HELPERS: Final = 13 * MIB


def fixed_bytes(settings: WorkerSettings) -> int:
    """What the worker uses beside batches in flight."""
    loaders = settings.num_workers
    helpers = HELPERS if loaders and settings.antenna_api_dataloader_mp_context != "fork" else 0
    each = LOADER_BASE + settings.image_cache_max_bytes
    return PARENT_BASE + helpers + (loaders * each or settings.image_cache_max_bytes)
