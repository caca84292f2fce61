"""A server of raw sockets that does with each request what the test says, and remembers them."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

_LIMIT_S = 30.0


@dataclass(frozen=True)
class Request:
    """`connection` counts the connections from 1, `at` is CLOCK_MONOTONIC in seconds."""

    line: str
    body: Any
    connection: int
    at: float


# Returns whether the connection stays open.
Act = Callable[[socket.socket], bool]


def answer(status: str = "200 OK", body: bytes = b"{}", *headers: str) -> Act:
    """A whole answer, after which the connection stays open."""

    def act(sock: socket.socket) -> bool:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        sock.sendall("\r\n".join(lines).encode() + body)
        return True

    return act


def reset(sock: socket.socket) -> bool:
    """RST instead of an answer."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def hang_up(sock: socket.socket) -> bool:
    """FIN instead of an answer."""
    return False


def half_close(sock: socket.socket) -> bool:
    """Nothing more is sent, but what comes is still read."""
    sock.shutdown(socket.SHUT_WR)
    _read_on(sock)
    return False


def silence(sock: socket.socket) -> bool:
    """No answer at all."""
    _read_on(sock)
    return False


def drip(start: bytes) -> Act:
    """`start`, then one byte every 50 ms."""

    def act(sock: socket.socket) -> bool:
        sock.sendall(start)
        while True:
            sock.sendall(b"x")
            time.sleep(0.05)

    return act


def _read_on(sock: socket.socket) -> None:
    sock.settimeout(_LIMIT_S)
    while sock.recv(65536):
        pass


class ScriptedServer:
    """Does one act of `script` for each request, then `answer()`. Its `requests` are in the order of their ends."""

    def __init__(self, *script: Act) -> None:
        self.script = deque(script)
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/api/v2"

    def bodies(self) -> list[Any]:
        return [request.body for request in self.requests]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._connections += 1
                self._open.add(sock)
                threading.Thread(target=self._serve, args=(sock, self._connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with suppress(OSError), sock, sock.makefile("rb") as stream:
            while line := stream.readline().decode().strip():
                length = 0
                while header := stream.readline().decode().strip().lower():
                    name, _, value = header.partition(":")
                    length = int(value) if name == "content-length" else length
                body = json.loads(stream.read(length)) if length else None
                self.requests.append(Request(line, body, number, time.monotonic()))
                act = self.script.popleft() if self.script else answer()
                if not act(sock):
                    # Else the stream keeps the socket open.
                    stream.close()
                    return
        self._open.discard(sock)
