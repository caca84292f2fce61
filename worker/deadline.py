"""Connections on which no exchange outlasts the deadline of its thread, however slowly its bytes drip.

A socket's own limit is one for each read: a server that sends one byte now and then, of the headers or of the
body, stays below it for ever. And urllib3 sends a request under the limit that is meant for connecting.

To look a host up and to connect to each of its addresses have limits of their own (resolv.conf(5), and the
connect timeout); what they took is missing from the rest.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_PIECE = 64 * 1024

_of_thread = threading.local()

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Within, this thread sends and reads for `seconds` at most in all; then that raises TimeoutError."""
    _of_thread.end = time.monotonic() + seconds
    try:
        yield
    finally:
        _of_thread.end = None


def is_over() -> bool:
    """Whether this thread is within a `deadline`, and it has passed."""
    left = _left()
    return left is not None and left <= 0


class DeadlineAdapter(HTTPAdapter):
    """An adapter whose connections keep to `deadline`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Called by requests when it makes or unpickles an adapter."""
        super().init_poolmanager(*args, **kwargs)
        _keep_to_deadline(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Called by requests for a way through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        _keep_to_deadline(manager)
        return manager


def _keep_to_deadline(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}


def _left() -> float | None:
    end = getattr(_of_thread, "end", None)
    return None if end is None else end - time.monotonic()


class _Reader(io.RawIOBase):
    """A socket's bytes, each read limited by what is left."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket) -> None:
        self._raw = raw
        self._sock = sock
        self._usual = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = _left()
        if left is not None:
            if left <= 0:
                raise TimeoutError("the deadline is over")
            self._sock.settimeout(left if self._usual is None else min(left, self._usual))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Reader(self.fp.detach(), sock))


class _Limited:
    """What is sent goes out in pieces, each limited by what is left; a sendall over TLS has no limit for the whole."""

    sock: socket.socket | None

    def send(self, data: Any) -> None:
        """Called by http.client with the headers, and with a body in one piece."""
        if _left() is None or not isinstance(data, bytes) or not data:
            super().send(data)  # type: ignore[misc]
            return
        for start in range(0, len(data), _PIECE):
            self._limit()
            super().send(data[start : start + _PIECE])  # type: ignore[misc]

    def _limit(self) -> None:
        left = _left()
        if left is None or self.sock is None:
            return
        if left <= 0:
            raise TimeoutError("the deadline is over")
        self.sock.settimeout(left)


class _Connection(_Limited, HTTPConnection):
    response_class = _Response


class _TlsConnection(_Limited, HTTPSConnection):
    response_class = _Response


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection
