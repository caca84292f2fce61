"""What a service tells systemd: sd_notify(3), where NOTIFY_SOCKET asks for it."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, MutableMapping

log = logging.getLogger(__name__)

# systemd wants a sign of life every half of the interval; whoever calls us may be late.
_OF_INTERVAL = 3
# So much longer a start or a stop may take after each sign of life, and how often it is asked for.
_EXTENSION_S, _EXTEND_EVERY_S = 60.0, 10.0
_LONGEST_STATUS = 500


class Notifier:
    """Says nothing where nobody listens. No method raises or blocks; each may be called from any thread.

    The variables are taken out of the environment, so that no child speaks in this process's name
    (`unset_environment` of sd_notify(3)). One socket is kept: at EMFILE there would be no other.
    `draining`: whether the worker was told to end; from then on its sign of life also asks for more time.
    """

    def __init__(
        self,
        draining: Callable[[], bool] = lambda: False,
        environ: MutableMapping[str, str] = os.environ,
    ) -> None:
        self._draining = draining
        path = environ.pop("NOTIFY_SOCKET", "")
        # sd_watchdog_enabled(3): the watchdog may be meant for another process, a shell around us for one.
        every_us, whose = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_ours = whose in ("", str(os.getpid())) and every_us.isdecimal()
        self._alive_every_s = int(every_us) / 1e6 / _OF_INTERVAL if is_ours else 0.0
        self._socket, self._address = _opened(path)
        self._ready = self._stopping = False
        self._status = ""
        self._said_alive = self._extended = float("-inf")

    def ready(self) -> None:
        """The service is up."""
        self._ready = True
        self._send("READY=1")

    def alive(self) -> None:
        """It gets on (WATCHDOG=1); said as often as systemd wants it, however often this is called.

        A start that loads models, or a stop that finishes a batch, is given more time so long as this is called.
        """
        now = time.monotonic()
        if self._alive_every_s and now - self._said_alive >= self._alive_every_s:
            self._said_alive = now
            self._send("WATCHDOG=1")
        if self._draining():
            self.stopping()
        if (self._stopping or not self._ready) and now - self._extended >= _EXTEND_EVERY_S:
            self._extended = now
            self._send(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_S * 1e6)}")

    def stopping(self) -> None:
        """It is about to end."""
        if not self._stopping:
            self._stopping = True
            self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; the same one is said once."""
        line = " ".join(text.split())[:_LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def _send(self, message: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError as e:
            # A full queue or a systemd that is being replaced; the next sign of life may get through.
            log.debug("systemd was not told %s: %s", message, e)


def _opened(path: str) -> tuple[socket.socket | None, bytes]:
    """A socket to send by, and where to: a path, or with @ a name in the abstract namespace (unix(7))."""
    if path[:1] not in ("/", "@"):
        if path:
            log.warning("NOTIFY_SOCKET=%s: no such kind of socket is known, systemd is told nothing", path)
        return None, b""
    try:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError as e:
        log.warning("systemd is told nothing: %s", e)
        return None, b""
    address = os.fsencode(path)
    return opened, b"\0" + address[1:] if path[0] == "@" else address
