"""The highest private memory of this process over a while."""

from __future__ import annotations

import os
import threading

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.memory import read_status

INTERVAL_S = 0.005
_END_LIMIT_S = 5.0


def private_memory() -> int:
    """Private memory of this process now, in bytes; 0 where it cannot be told. About 0.1 ms."""
    try:
        return read_status(os.getpid()).memory.anonymous or 0
    except CannotObserve:
        return 0


class Peak:
    """Looks every 5 ms, in a thread, until the end of the block. `bytes` is the highest that was seen."""

    def __init__(self) -> None:
        self.bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ami-peak", daemon=True)

    def __enter__(self) -> Peak:
        self.bytes = private_memory()
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(_END_LIMIT_S)

    def _run(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self.bytes = max(self.bytes, private_memory())
