"""One HTTP/1.1 connection with keep-alive: requests in, responses out, by the standard library's parser."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from amidiag.soak.antenna.messages import Request, Response, error_response

BODY_LIMIT = 64 * 1024 * 1024
"""In bytes. A result with thousands of detections is some hundred kB."""

_SLOW_PIECES = 20
# Linger for 0 seconds: close(2) sends an RST and drops what was not sent (socket(7)).
_RESET = struct.pack("ii", 1, 0)


class Conversation(BaseHTTPRequestHandler):
    """Serves a connection until either side closes it; creating it does it all.

    Raises ConnectionError where the client goes away in the middle.
    """

    protocol_version = "HTTP/1.1"
    # Head and body leave in one write; without Nagle's algorithm a further one does not wait for the
    # client's delayed ACK (40 ms).
    disable_nagle_algorithm = True

    def __init__(self, connection: socket.socket, answer: Callable[[Request], Response]) -> None:
        self._answer = answer
        # The base class only keeps the address and the server, for its log.
        super().__init__(connection, ("", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: requests are counted, not logged."""

    def _serve(self) -> None:
        body = self._read_body()
        if isinstance(body, Response):
            self.close_connection = True
            self._send(body)
            return
        path, _, query = self.path.partition("?")
        request = Request(
            method=self.command,
            path=path,
            query=query,
            authorization=self.headers.get("Authorization"),
            body=body,
            connection=self.connection.fileno(),
        )
        self._send(self._answer(request))

    # The names by which the base class finds what serves a method.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve  # noqa: N815

    def _read_body(self) -> bytes | Response:
        """The body, or the refusal after which the connection cannot be used any more."""
        if "Transfer-Encoding" in self.headers:
            return error_response(411, "a body needs a Content-Length here")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            return error_response(400, f"Content-Length: a number is wanted, not {length!r}")
        if len(length) > 12 or int(length) > BODY_LIMIT:
            return error_response(413, f"a body may have {BODY_LIMIT} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionAbortedError("the client went away in the middle of a body")
        return body

    def _send(self, response: Response) -> None:
        try:
            self._send_as_told(response)
        except ConnectionError:
            response.unheard()
            raise
        if not response.reaches_client:
            response.unheard()

    def _send_as_told(self, response: Response) -> None:
        body = response.body
        if not response.reaches_client:
            self.close_connection = True
            body = body[: len(body) // 2]
        if response.unanswered:
            self.connection.shutdown(socket.SHUT_WR)
        if response.stall_s:
            self._wait_for_the_client(response.stall_s)
        if response.unanswered:
            return
        head = self._head(response)
        if self.command == "HEAD":
            self.connection.sendall(head)
        elif response.slow_s:
            self.connection.sendall(head)
            self._send_slowly(body, response.slow_s)
        else:
            self.connection.sendall(head + body)
        if response.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # Here and not by the listener, which says goodbye with a FIN first.
            self.connection.close()

    def _head(self, response: Response) -> bytes:
        lines = [
            f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            *(f"{name}: {value}" for name, value in response.headers.items()),
        ]
        # A cut must come as a surprise.
        if self.close_connection and response.reaches_client:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _wait_for_the_client(self, seconds: float) -> None:
        """Do nothing for so long, or until the client has had enough."""
        gone = select.poll()
        gone.register(self.connection, select.POLLRDHUP)
        if gone.poll(1000 * seconds):
            raise ConnectionAbortedError("the client went away before its answer")

    def _send_slowly(self, body: bytes, seconds: float) -> None:
        piece = max(1, -(-len(body) // _SLOW_PIECES))
        for start in range(0, max(1, len(body)), piece):
            time.sleep(seconds / _SLOW_PIECES)
            self.connection.sendall(body[start : start + piece])
