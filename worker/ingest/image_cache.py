"""Image files of this loader process, kept for tasks that come again; what was not used for longest goes first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict

from worker import caches

NAME = "images"


class ImageCache:
    """Files by their key, of at most `max_bytes` together; with 0 it keeps none. Safe for threads.

    It is registered as `NAME` until it is closed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        if max_bytes > 0:
            caches.register(NAME, size=self.size, drain=self.clear, bounded=True)

    def get(self, key: str) -> bytes | None:
        """The file, which is now the one used last."""
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Keep a file, if it is not larger than all that may be kept."""
        with self._lock:
            self._drop(key)
            if _cost(key, data) > self._max_bytes:
                return
            self._files[key] = data
            self._bytes += _cost(key, data)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._files)))

    def discard(self, key: str) -> None:
        """Keep a file no longer."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Keep none of the files."""
        with self._lock:
            self._files.clear()
            self._bytes = 0

    def size(self) -> caches.CacheSize:
        """How many files it keeps, and the bytes that they and their keys need."""
        with self._lock:
            return caches.CacheSize(len(self._files), self._bytes)

    def close(self) -> None:
        """Keep nothing, and be registered no longer."""
        self.clear()
        if self._max_bytes > 0:
            caches.forget(NAME)

    def _drop(self, key: str) -> None:
        data = self._files.pop(key, None)
        if data is not None:
            self._bytes -= _cost(key, data)


def _cost(key: str, data: bytes) -> int:
    return sys.getsizeof(data) + sys.getsizeof(key)
