"""A very small HTTP server for what is read of a worker: bounded in time, threads and FDs."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
import socketserver
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, NamedTuple

from worker.guard.fd_reserve import FdReserve

log = logging.getLogger(__name__)

REQUEST_LIMIT_S = 2.0
_LONGEST_HEAD = 16_384
# The connection, and what it takes to look into /proc.
_RESERVED = 4
# The worker before this one may have the port for a while yet: killed, it gives its memory back before its sockets,
# and that of a GPU takes seconds. Who ends for want of a port is not started again.
_TAKEN_LIMIT_S, _TRY_EVERY_S = 30.0, 0.1
_NOT_YET = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
_LOOK_EVERY_S = 0.2
_STOP_LIMIT_S = 5.0


class Answer(NamedTuple):
    """What is sent back."""

    status: int
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Answer]]
"""By path, what is answered to a GET."""


class MetricsServer:
    """Serves `pages` from one thread, one request after the other, as a context manager.

    Raises:
        OSError: the address cannot be had.
    """

    def __init__(self, address: str, port: int, pages: Pages) -> None:
        host = ipaddress.ip_address(address)
        self._server = _bound(_Server6 if host.version == 6 else _Server4, (address, port), pages)
        shown = f"[{address}]" if host.version == 6 else address
        self.url = f"http://{shown}:{port}/metrics"
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=[_LOOK_EVERY_S], name="ami-metrics", daemon=True
        )

    def __enter__(self) -> MetricsServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # BaseServer.shutdown waits without a limit.
        threading.Thread(target=self._server.shutdown, name="ami-metrics-end", daemon=True).start()
        self._thread.join(_STOP_LIMIT_S)
        self._server.server_close()


class _Server4(socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], pages: Pages) -> None:
        self.pages = pages
        super().__init__(address, _Request)
        self._reserve = FdReserve(_RESERVED)
        _keep_out_of_forks(weakref.ref(self.socket))

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; at EMFILE with an FD that was kept for it."""
        try:
            found = super().get_request()
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._reserve.release()
            try:
                found = super().get_request()
            except OSError:
                # Another thread was quicker. The connection still waits, and must not be asked for without a pause.
                time.sleep(_TRY_EVERY_S)
                raise
        self._reserve.release()
        return found

    def shutdown_request(self, request: Any) -> None:
        """Close the connection, and keep its FD and the others back again."""
        super().shutdown_request(request)
        self._reserve.renew()

    def server_close(self) -> None:
        """Close the socket, and give back what was reserved."""
        super().server_close()
        if hasattr(self, "_reserve"):
            self._reserve.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away or takes too long is no matter of the worker's."""


class _Server6(_Server4):
    address_family = socket.AF_INET6


class _Request(socketserver.BaseRequestHandler):
    server: _Server4

    def handle(self) -> None:
        line = self._first_line()
        if line is not None:
            answer = self._answer(line)
            status = HTTPStatus(answer.status)
            head = (
                f"HTTP/1.0 {status.value} {status.phrase}\r\nContent-Type: {answer.content_type}\r\n"
                f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
            )
            # The limit of sendall is one for all of it.
            self.request.settimeout(REQUEST_LIMIT_S)
            self.request.sendall(head.encode() + (b"" if line[0] == "HEAD" else answer.body))

    def _first_line(self) -> list[str] | None:
        """The words of the request's first line, once its head is there; None where it does not come in time."""
        end, head = time.monotonic() + REQUEST_LIMIT_S, b""
        while b"\r\n\r\n" not in head:
            left = end - time.monotonic()
            if left <= 0 or len(head) > _LONGEST_HEAD:
                return None
            self.request.settimeout(left)
            part = self.request.recv(4096)
            if not part:
                return None
            head += part
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split()
        return words if len(words) == 3 else None

    def _answer(self, line: list[str]) -> Answer:
        if line[0] not in ("GET", "HEAD"):
            return _said(HTTPStatus.METHOD_NOT_ALLOWED)
        path = line[1].split("?")[0]
        page = self.server.pages.get(path)
        if page is not None:
            return page()
        there_is = "There is: " + ", ".join(self.server.pages)
        return _said(HTTPStatus.OK, there_is) if path == "/" else _said(HTTPStatus.NOT_FOUND)


def _said(status: HTTPStatus, text: str = "") -> Answer:
    return Answer(status, "text/plain; charset=utf-8", f"{text or status.phrase}\n".encode())


def _bound(kind: type[_Server4], address: tuple[str, int], pages: Pages) -> _Server4:
    end, is_said = time.monotonic() + _TAKEN_LIMIT_S, False
    while True:
        try:
            return kind(address, pages)
        except OSError as e:
            if e.errno not in _NOT_YET or time.monotonic() >= end:
                raise
            if not is_said:
                is_said = True
                log.warning(
                    "port %s of %s: %s: trying for %g s", address[1], address[0], e.strerror, _TAKEN_LIMIT_S
                )
            time.sleep(_TRY_EVERY_S)


def _keep_out_of_forks(ref: weakref.ref[socket.socket]) -> None:
    """A loader process that outlives the worker must not hold the port that the next one wants."""

    def forget() -> None:
        listening = ref()
        if listening is not None:
            listening.close()

    os.register_at_fork(after_in_child=forget)
