"""The exit callback per loader process of torch ≤ 2.12.1 (pytorch #91252), on a torch that no longer has it.

Up to 2.12.1 a DataLoader iterator built with `persistent_workers=True` and `pin_memory=True` registers one
`atexit` callback per loader process; the callback holds the `Process`, and with it two sentinel pipe ends,
until the interpreter exits (FACTS 6).
"""

from __future__ import annotations

import atexit
import inspect
from typing import Any


def _clean_up_worker(process: Any) -> None:
    try:
        process.join(timeout=5)
    finally:
        if process.is_alive():
            process.terminate()


def arm() -> str:
    """Register per loader process, unless this torch does so by itself. Returns what was done, for people."""
    import torch
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    iterator: Any = _MultiProcessingDataLoaderIter

    # The source decides, not the version: distributions backport.
    if "atexit.register(" in inspect.getsource(iterator.__init__):
        return f"not needed: torch {torch.__version__} itself registers an exit callback per loader process"
    original = iterator.__init__

    def init_as_before_2_13(self: Any, loader: Any) -> None:
        original(self, loader)
        if self._persistent_workers and self._pin_memory:
            for process in self._workers:
                atexit.register(iterator._clean_up_worker, process)

    iterator.__init__ = init_as_before_2_13
    # Where that torch has it: whoever takes the callbacks back finds it there.
    iterator._clean_up_worker = staticmethod(_clean_up_worker)
    return f"armed: torch {torch.__version__} registers an exit callback per loader process, like ≤ 2.12.1"
