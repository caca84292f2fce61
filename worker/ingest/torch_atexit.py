"""torch's exit callbacks per loader process, taken back: they are the pipe leak (pytorch #91252, FACTS 6).

Up to torch 2.12.1 an iterator with persistent loader processes and pinned memory registers one callback for each of
them; it holds the `Process`, and with it two pipe ends, until the interpreter exits. `Loader.close` ends the
processes itself, so nothing is lost with the callbacks.
"""

from __future__ import annotations

import atexit
import functools
import inspect
import logging
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

log = logging.getLogger(__name__)


def take_back(iterator: Any) -> None:
    """Unregister what torch has registered for this iterator's processes, where it does so."""
    if getattr(iterator, "_persistent_workers", False) and iterator._pin_memory and _registers():
        atexit.unregister(getattr(_MultiProcessingDataLoaderIter, "_clean_up_worker"))  # noqa: B009 - not in every torch


@functools.cache
def _registers() -> bool:
    """Whether this torch registers per process. The source decides, not the version: distributions backport."""
    init = _MultiProcessingDataLoaderIter.__init__
    found = "atexit.register(" in inspect.getsource(init) and hasattr(
        _MultiProcessingDataLoaderIter, "_clean_up_worker"
    )
    if found:
        log.info(
            "this torch keeps two pipe ends of every persistent loader process with pinned memory until exit "
            "(pytorch #91252): its exit callbacks are taken back (AMI_AVOID_TORCH_ATEXIT_LEAK)"
        )
    return found
