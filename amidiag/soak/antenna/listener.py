"""The listening socket on loopback: accepts connections, and can go down and come back on its port."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
from collections.abc import Callable

from amidiag.soak.antenna.conversation import Conversation
from amidiag.soak.antenna.messages import Request, Response
from amidiag.soak.antenna.meter import Meter

_HOST = "127.0.0.1"
_BACKLOG = 128


class Listener:
    """Serves each connection in its own daemon thread. `port` is chosen by the kernel, once."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._answer: Callable[[Request], Response] | None = None
        self._listening: socket.socket | None = None
        self._connections: set[socket.socket] = set()
        self._return: threading.Timer | None = None
        # Bound for good but never listening: it keeps the port ours while we are down, and with
        # SO_REUSEADDR on both (socket(7)) the listening socket can be bound beside it.
        self._port_holder = _bound_socket(0)

    @property
    def port(self) -> int:
        return int(self._port_holder.getsockname()[1])

    @property
    def origin(self) -> str:
        """Scheme, host and port of every URL of this server."""
        return f"http://{_HOST}:{self.port}"

    def serve(self, answer: Callable[[Request], Response]) -> None:
        """Answers requests by `answer` from now on."""
        self._answer = answer
        with self._lock:
            self._up()

    def down(self, seconds: float) -> None:
        """Cuts all connections and refuses new ones from now on, for so many seconds. Raises OSError."""
        with self._lock:
            if self._return is not None:
                self._return.cancel()
            if self._listening is not None:
                # shutdown() wakes accept(), close() alone would not.
                self._listening.shutdown(socket.SHUT_RDWR)
                self._listening.close()
                self._listening = None
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
            self._return = threading.Timer(seconds, self._come_back)
            self._return.daemon = True
            self._return.start()

    def _come_back(self) -> None:
        with self._lock:
            # Not where a further down() took over while this timer was waiting for the lock.
            if self._return is threading.current_thread():
                self._return = None
                self._up()

    def _up(self) -> None:
        self._listening = _bound_socket(self.port)
        self._listening.listen(_BACKLOG)
        threading.Thread(target=self._accept, args=(self._listening,), name="accept", daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EBADF):
                    return
                if error.errno != errno.ECONNABORTED:
                    raise
                continue
            with self._lock:
                if self._listening is not listening:
                    connection.close()
                    return
                self._connections.add(connection)
            self._meter.connected()
            threading.Thread(
                target=self._converse, args=(connection,), name="connection", daemon=True
            ).start()

    def _converse(self, connection: socket.socket) -> None:
        assert self._answer is not None
        # A client that goes away is everyday life for a server.
        with contextlib.suppress(ConnectionError):
            Conversation(connection, self._answer)
        with self._lock:
            self._connections.discard(connection)
            with contextlib.suppress(OSError):  # not connected any more
                connection.shutdown(socket.SHUT_WR)
            connection.close()
        self._meter.disconnected()


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((_HOST, port))
    return bound
