"""Where the death of a loader process may be reported: only while the main thread waits for a batch.

DataLoader installs a SIGCHLD handler that raises RuntimeError wherever the main thread happens to be: in
the middle of an inference, or while results are handed over. Here it is held back until the next wait.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch.utils.data._utils import signal_handling

_torchs: Callable[[int, FrameType | None], Any] | None = None
_waiting = False


def hold_back() -> None:
    """Put our handler before torch's, which is there from the first DataLoader iterator on."""
    global _torchs
    if threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if handler is not _on_child and callable(handler):
        _torchs = handler
        signal.signal(signal.SIGCHLD, _on_child)


@contextmanager
def reported() -> Iterator[None]:
    """A context in which a loader process that died, now or before, raises RuntimeError."""
    global _waiting
    _waiting = True
    try:
        # The signal may have come while it was held back.
        signal_handling._error_if_any_worker_fails()  # type: ignore[attr-defined]
        yield
    finally:
        _waiting = False


def _on_child(number: int, frame: FrameType | None) -> None:
    if _waiting and _torchs is not None:
        _torchs(number, frame)
