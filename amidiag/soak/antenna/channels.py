"""The controller's ends of the control sockets (see `control` for the server's)."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

from amidiag.soak.antenna.words import AntennaServerError


class _Channel:
    """One socket with one question at a time on it."""

    __slots__ = ("_lines", "_socket")

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._lines = end.makefile("rb")

    def ask(self, message: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Raises ConnectionError at the server's end, TimeoutError."""
        self._socket.settimeout(timeout_s)
        self._socket.sendall(json.dumps(message).encode() + b"\n")
        line = self._lines.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError("the control channel ended")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class Channels:
    """Asks the server, from any number of threads at once: each takes a free channel or makes one."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lock = threading.Lock()
        self._free: list[_Channel] = []

    def ask(self, word: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Raises AntennaServerError where the server refuses, ConnectionError, TimeoutError."""
        channel = self._take()
        try:
            reply = channel.ask({"word": word, "arguments": arguments}, timeout_s)
        except BaseException:
            # Also on Ctrl-C: a channel with an answer still to come must not be used again.
            channel.close()
            raise
        with self._lock:
            self._free.append(channel)
        if "error" in reply:
            raise AntennaServerError(f"the embedded Antenna server refused {word}: {reply['error']}")
        return reply["value"]

    def close(self) -> None:
        """Ends the server. Also where a fork of this process still holds these sockets: hence shutdown()."""
        with self._lock:
            self._control.shutdown(socket.SHUT_RDWR)
            self._control.close()
            while self._free:
                self._free.pop().close()

    def _take(self) -> _Channel:
        with self._lock:
            if self._free:
                return self._free.pop()
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    socket.send_fds(self._control, [b"+"], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
            return _Channel(ours)
