"""Unix sockets of a network namespace, with their other ends: sock_diag(7), or `/proc/PID/net/unix` without those."""

from __future__ import annotations

import struct
from collections.abc import Collection

from amidiag.procfs.sock_diag import ask
from amidiag.procfs.sockets import LISTEN, Socket, rows

# linux/socket.h, linux/unix_diag.h
_AF_UNIX = 1
_SHOW_NAME, _SHOW_PEER, _SHOW_ICONS = 1, 4, 8
_NAME, _PEER, _ICONS = 0, 2, 3
_REQUEST = struct.Struct("=BBHIII8s")
_MESSAGE = struct.Struct("=BBBBI8s")
_ATTRIBUTE = struct.Struct("=HH")

_PROTOCOL = {1: "unix", 2: "unix-dgram", 5: "unix-seqpacket"}
_TCP_ESTABLISHED, _TCP_LISTEN = 1, 10
_ACCEPTS = 0x10000  # __SO_ACCEPTCON, include/uapi/linux/net.h
_SS_CONNECTED = 3


class _Entry:
    """`peer`: inode of the other end, 0 where it has no file (closed, or not accepted yet), None without one.

    `waiting`: of a listening one, the sockets that have connected and wait for accept(2).
    """

    __slots__ = ("name", "peer", "protocol", "state", "waiting")

    def __init__(self, protocol: str, state: int) -> None:
        self.protocol = protocol
        self.state = state
        self.name = ""
        self.peer: int | None = None
        self.waiting: tuple[int, ...] = ()


def read_unix(pid: int, wanted: Collection[int]) -> dict[int, Socket]:
    """Those of `wanted` that are in the network namespace of `pid`.

    Where that is not the reader's and the reader may not enter it, the other ends stay unknown.
    Raises OSError where the reader has no free FD.
    """
    entries = _ask(pid)
    if entries is None:
        return _from_text(pid, wanted)
    # Clients that wait for accept(2), by the listening socket that has them in its queue.
    queued = {client: inode for inode, entry in entries.items() for client in entry.waiting}
    return {inode: _socket_of(inode, entries, queued) for inode in wanted if inode in entries}


def _ask(pid: int) -> dict[int, _Entry] | None:
    """What sock_diag says; None where it cannot be asked there."""
    show = _SHOW_NAME | _SHOW_PEER | _SHOW_ICONS
    messages = ask(pid, _REQUEST.pack(_AF_UNIX, 0, 0, 0xFFFFFFFF, 0, show, b"\xff" * 8))
    return None if messages is None else dict(map(_parse, messages))


def _socket_of(inode: int, entries: dict[int, _Entry], queued: dict[int, int]) -> Socket:
    entry = entries[inode]
    far: tuple[int, ...] | None = None
    if entry.peer is not None:
        there = entry.peer or queued.get(inode)
        far = (there,) if there else ()
    named = entries.get(far[0]) if far else None
    return Socket(
        entry.protocol,
        _state(entry.state),
        entry.name,
        named.name if named else "",
        far,
        orphan=far == (),
    )


def _state(number: int) -> str | None:
    return {_TCP_LISTEN: LISTEN, _TCP_ESTABLISHED: "ESTABLISHED"}.get(number)


def _parse(data: bytes) -> tuple[int, _Entry]:
    _, kind, state, _, inode, _ = _MESSAGE.unpack_from(data)
    entry = _Entry(_PROTOCOL.get(kind, f"unix-{kind}"), state)
    at = _MESSAGE.size
    while at < len(data):
        length, attribute = _ATTRIBUTE.unpack_from(data, at)
        value = data[at + _ATTRIBUTE.size : at + length]
        if attribute == _NAME:
            entry.name = _name(value)
        elif attribute == _PEER:
            (entry.peer,) = struct.unpack("=I", value)
        elif attribute == _ICONS:
            entry.waiting = struct.unpack(f"={len(value) // 4}I", value)
        at += (length + 3) & ~3
    return inode, entry


def _name(value: bytes) -> str:
    # An abstract name begins with a null byte and may hold more of them (unix(7)).
    text = "@" + value[1:].decode("utf-8", "surrogateescape") if value[:1] == b"\0" else ""
    return (text or value.rstrip(b"\0").decode("utf-8", "surrogateescape")).replace("\0", "@")


def _from_text(pid: int, wanted: Collection[int]) -> dict[int, Socket]:
    found = {}
    for row in rows(pid, "unix"):
        # The kernel writes paths as they are: one with a newline goes on in a line that is no row.
        if len(row) < 7 or not row[6].isdecimal() or int(row[6]) not in wanted:
            continue
        inode = int(row[6])
        connected, accepts = int(row[5], 16) == _SS_CONNECTED, int(row[3], 16) & _ACCEPTS
        kind = int(row[4], 16)
        state = LISTEN if accepts else "ESTABLISHED" if connected else None
        # A path with spaces comes in several words; how many spaces there were is not worth more.
        name = " ".join(row[7:])
        far = () if connected else None
        found[inode] = Socket(_PROTOCOL.get(kind, f"unix-{kind}"), state, name, "", far)
    return found
