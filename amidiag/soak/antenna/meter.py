"""Counts what the worker did: requests by call and status, bytes, connections."""

from __future__ import annotations

import threading
from typing import NamedTuple


class Traffic(NamedTuple):
    """A copy of the counts. Bytes are those of bodies, as asked to be sent."""

    requests: dict[str, dict[int, int]]
    bytes_in: int
    bytes_out: int
    connections_open: int
    connections_total: int


class Meter:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, dict[int, int]] = {}
        self._bytes_in = 0
        self._bytes_out = 0
        self._connections_open = 0
        self._connections_total = 0

    def request(self, call: str, status: int, bytes_in: int, bytes_out: int) -> None:
        with self._lock:
            statuses = self._requests.setdefault(call, {})
            statuses[status] = statuses.get(status, 0) + 1
            self._bytes_in += bytes_in
            self._bytes_out += bytes_out

    def connected(self) -> None:
        with self._lock:
            self._connections_open += 1
            self._connections_total += 1

    def disconnected(self) -> None:
        with self._lock:
            self._connections_open -= 1

    def traffic(self) -> Traffic:
        with self._lock:
            return Traffic(
                {call: dict(statuses) for call, statuses in self._requests.items()},
                self._bytes_in,
                self._bytes_out,
                self._connections_open,
                self._connections_total,
            )
