"""Image files of this loader process, kept for tasks that come again; what was not used for longest goes first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict

from worker import caches

NAME = "images"


class ImageCache:
    """Files by their address, of at most `max_bytes` together; with 0 it keeps none. Safe for threads.

    It is registered as `NAME` until it is closed.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        if max_bytes > 0:
            caches.register(NAME, size=self.size, drain=self.clear, bounded=True)

    def get(self, url: str) -> bytes | None:
        """The file, which is now the one used last."""
        with self._lock:
            if url in self._files:
                self._files.move_to_end(url)
            return self._files.get(url)

    def put(self, url: str, data: bytes) -> None:
        """Keep a file, if it is not larger than all that may be kept."""
        with self._lock:
            self._drop(url)
            if _cost(url, data) > self._max_bytes:
                return
            self._files[url] = data
            self._bytes += _cost(url, data)
            while self._bytes > self._max_bytes:
                self._drop(next(iter(self._files)))

    def discard(self, url: str) -> None:
        """Keep a file no longer."""
        with self._lock:
            self._drop(url)

    def clear(self) -> None:
        """Keep none of the files."""
        with self._lock:
            self._files.clear()
            self._bytes = 0

    def size(self) -> caches.CacheSize:
        """How many files it keeps, and the bytes that they and their addresses need."""
        with self._lock:
            return caches.CacheSize(len(self._files), self._bytes)

    def close(self) -> None:
        """Keep nothing, and be registered no longer."""
        self.clear()
        if self._max_bytes > 0:
            caches.forget(NAME)

    def _drop(self, url: str) -> None:
        data = self._files.pop(url, None)
        if data is not None:
            self._bytes -= _cost(url, data)


def _cost(url: str, data: bytes) -> int:
    return sys.getsizeof(data) + sys.getsizeof(url)
