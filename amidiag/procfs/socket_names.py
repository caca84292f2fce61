"""What a person calls a socket: by what it is connected to, or by the address that it serves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

from amidiag.procfs.fd_groups import Name
from amidiag.procfs.sockets import LISTEN, Socket


class SocketNamer:
    """Names the sockets of one process, which are `sockets`.

    Many connections to one remote end are one line, and so are the many that came in at one local address.
    """

    def __init__(self, sockets: Iterable[Socket]) -> None:
        self._at_local: Counter[tuple[str, str | None, str]] = Counter()
        self._at_remote: Counter[tuple[str, str | None, str]] = Counter()
        for one in sockets:
            self._at_local[one.protocol, one.state, one.local] += 1
            self._at_remote[one.protocol, one.state, one.remote] += 1

    def name(self, one: Socket) -> Name:
        """Its name, and what it is called among many others of its sort."""
        state = f" {one.state}" if one.state and (one.protocol == "tcp" or one.state == LISTEN) else ""
        if one.protocol.startswith("unix"):
            return _unix_name(one, state)
        if not one.remote:
            return f"{one.protocol} {one.local}{state}".rstrip(), f"{one.protocol}{state}"
        local = self._at_local[one.protocol, one.state, one.local]
        remote = self._at_remote[one.protocol, one.state, one.remote]
        if local == remote == 1:
            name = f"{one.protocol} {one.local} → {one.remote}{state}"
        elif remote >= local:
            name = f"{one.protocol} → {one.remote}{state}"
        else:
            served = f"{one.protocol} {one.local} ← *{state}"
            return served, served
        return name, f"{one.protocol} → *:{one.remote.rpartition(':')[2]}{state}"


def _unix_name(one: Socket, state: str) -> Name:
    many = f"{one.protocol} *{state}"
    if one.remote:
        return f"{one.protocol} → {one.remote}", many
    if one.local:
        return f"{one.protocol} {one.local}{state}", many
    name = one.protocol if one.far is not None else f"{one.protocol}, not connected"
    return name, name


def name_by_kernel(pid: int, fd: str, link: str) -> Name:
    """What the kernel calls the protocol of a socket that is in no table. Raises OSError.

    Of TCP and UDP those are not bound yet; others have no table (vsock), or live in a network namespace
    without a process.
    """
    protocol = _protocol(pid, fd, link)
    if protocol is None:
        return "socket", "socket"
    name = {"TCPv6": "tcp", "UDPv6": "udp", "UNIX-STREAM": "unix"}.get(protocol, protocol.lower())
    if name in ("tcp", "udp"):
        name += ", not bound"
    return name, name


def _protocol(pid: int, fd: str, link: str) -> str | None:
    try:
        # O_PATH, and its link compared: if the number has gone to a file of a dead server, that is not asked.
        pinned = os.open(f"/proc/{pid}/fd/{fd}", os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    try:
        way = f"/proc/self/fd/{pinned}"
        if os.readlink(way) != link:
            return None
        return os.getxattr(way, "system.sockprotoname").rstrip(b"\0").decode("ascii", "replace")
    except OSError:
        return None  # A kernel before 2.6.39, or a socket without it.
    finally:
        os.close(pinned)
