"""TCP, UDP, raw and ping sockets of a network namespace: `/proc/PID/net/tcp` and the like (proc_pid_net(5)).

That of TCP is asked of sock_diag(7) where that answers: as text it takes 5 ms, however few there are.

The other end of a connection within the machine is the socket with the same two addresses mirrored.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Collection, Iterator

from amidiag.procfs.sock_diag import ask
from amidiag.procfs.sockets import LISTEN, Socket, rows

_TABLES = {"tcp": ("tcp", "tcp6"), "udp": ("udp", "udp6"), "raw": ("raw", "raw6"), "icmp": ("icmp", "icmp6")}
# include/net/tcp_states.h, in the words of ss(8) and the kernel.
_STATES = {
    "01": "ESTABLISHED", "02": "SYN_SENT", "03": "SYN_RECV", "04": "FIN_WAIT1", "05": "FIN_WAIT2",
    "06": "TIME_WAIT", "07": "CLOSE", "08": "CLOSE_WAIT", "09": "LAST_ACK", "0A": LISTEN, "0B": "CLOSING",
    "0C": "SYN_RECV",
}  # fmt: skip
# Where the far end has no file any more, these say that it was closed, and not that it waits for accept(2).
_CLOSED = frozenset(("FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "LAST_ACK", "CLOSING"))
# These say of the near end that the far one has at least begun to close, or that it did so itself.
_ENDING = _CLOSED | {"CLOSE_WAIT"}
_MAPPED = "0000000000000000" + ("FFFF0000" if sys.byteorder == "little" else "0000FFFF")
_ANY = ("00000000", "0" * 32)

# linux/inet_diag.h: family, protocol and states that are asked for; of the answer family, state, ports, both
# addresses and the inode.
_REQUEST = struct.Struct("=BBBBI48x")
_MESSAGE = struct.Struct("=BBxx2s2s16s16s28xI")
# ESTABLISHED to NEW_SYN_RECV, as in `/proc`: not those that are only bound, which Linux 6.8 and later would add.
_STATES_WANTED = 0x1FFE
_IPPROTO_TCP, _AF_INET, _AF_INET6 = 6, 2, 10

Row = tuple[str, str, str, int]
"""Local and remote address as the kernel writes them, state, inode (0: no process has it open)."""


def read_inet(pid: int, wanted: Collection[int]) -> dict[int, Socket]:
    """Those of `wanted` that are in the tables, as the network namespace of `pid` has them. Raises OSError."""
    found: dict[int, Socket] = {}
    for protocol, tables in _TABLES.items():
        found |= _Table(protocol, [row for name in tables for row in _rows(pid, name)]).find(wanted)
        if len(found) == len(wanted):
            break
    return found


def _rows(pid: int, table: str) -> Iterator[Row]:
    family = {"tcp": _AF_INET, "tcp6": _AF_INET6}.get(table)
    if family is not None:
        messages = ask(pid, _REQUEST.pack(family, _IPPROTO_TCP, 0, 0, _STATES_WANTED))
        if messages is not None:
            return map(_diag_row, messages)
        if family == _AF_INET6 and not _has_tcp6(pid):
            return iter(())
    return map(_row, rows(pid, table))


def _diag_row(message: bytes) -> Row:
    """As `/proc` has it."""
    family, state, port, far_port, host, far_host, inode = _MESSAGE.unpack_from(message)
    length = 16 if family == _AF_INET6 else 4
    local = f"{_words(host[:length])}:{port.hex().upper()}"
    remote = f"{_words(far_host[:length])}:{far_port.hex().upper()}"
    return _unmapped(local), _unmapped(remote), _STATES.get(f"{state:02X}", f"{state:02X}"), inode


def _words(packed: bytes) -> str:
    return "".join([f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed)])


def _has_tcp6(pid: int) -> bool:
    """Whether there is any but in TIME_WAIT, which nobody holds: the table is all buckets of a hash, 5 ms of them."""
    # `TCP6: inuse 0` (net/ipv6/proc.c, sockstat6_seq_show); a kernel without it is asked for the table.
    return not any(line[:3] == ["TCP6:", "inuse", "0"] for line in rows(pid, "sockstat6", titles=0))


def _row(words: list[str]) -> Row:
    return _unmapped(words[1]), _unmapped(words[2]), _STATES.get(words[3], words[3]), int(words[9])


def _unmapped(address: str) -> str:
    """An IPv4 address in its IPv6 form as what it is: the far end may be in the table of IPv4."""
    return address[24:] if address.startswith(_MAPPED) else address


class _Table:
    """All sockets of one protocol."""

    def __init__(self, protocol: str, found: list[Row]) -> None:
        self._protocol = protocol
        self._rows = found
        self._by_pair: dict[tuple[str, str], tuple[str, int]] = {}
        self._waiting: dict[str, list[tuple[str, int]]] = {}

    def find(self, wanted: Collection[int]) -> dict[int, Socket]:
        chosen = [row for row in self._rows if row[3] in wanted]
        if chosen:
            self._index()
        return {row[3]: self._socket(row) for row in chosen}

    def _index(self) -> None:
        for local, remote, state, inode in self._rows:
            if not _is_empty(remote):
                self._by_pair[local, remote] = state, inode
            elif inode:
                host, _, port = local.partition(":")
                self._waiting.setdefault(port, []).append((host, inode))

    def _socket(self, row: Row) -> Socket:
        local, remote, state, _ = row
        far, orphan = self._far(local, remote, state)
        connected = not _is_empty(remote)
        # Of UDP and raw sockets "CLOSE" says only that they are not connected.
        named = state if self._protocol == "tcp" else ("ESTABLISHED" if connected else None)
        return Socket(self._protocol, named, _text(local), _text(remote) if connected else "", far, orphan)

    def _far(self, local: str, remote: str, state: str) -> tuple[tuple[int, ...] | None, bool]:
        """The sockets that lead to the other end, and whether it has been closed."""
        if _is_empty(remote) or self._protocol not in ("tcp", "udp"):
            return None, False
        twin = self._by_pair.get((remote, local))
        if twin is not None:
            twin_state, inode = twin
            if inode:
                return (inode,), False
            return ((), True) if twin_state in _CLOSED else (self._at(remote), False)
        if not _is_own(local, remote):
            return None, False
        if self._protocol == "udp":
            holders = self._at(remote)
            return holders, not holders
        # A table is no snapshot: the twin of a connection just made may have been passed already.
        return (), state in _ENDING

    def _at(self, address: str) -> tuple[int, ...]:
        """Who takes what is sent to an address: those bound to it, else to every address."""
        host, _, port = address.partition(":")
        there = self._waiting.get(port, [])
        exact = tuple(inode for bound, inode in there if bound == host)
        return exact or tuple(inode for bound, inode in there if bound in _ANY)


def _is_empty(address: str) -> bool:
    return address.endswith(":0000")


def _is_own(local: str, remote: str) -> bool:
    """Whether a remote address is this machine's own, as far as the two addresses tell."""
    ours, theirs = local.partition(":")[0], remote.partition(":")[0]
    return ours == theirs or (len(theirs) == 8 and _bytes(theirs)[0] == 127)


def _bytes(host: str) -> bytes:
    # Words of 32 bits, each printed as a number of this machine.
    words = (host[start : start + 8] for start in range(0, len(host), 8))
    return b"".join(int(word, 16).to_bytes(4, sys.byteorder) for word in words)


def _text(address: str) -> str:
    host, _, port = address.partition(":")
    packed = _bytes(host)
    if len(packed) == 4:
        return f"{'.'.join(map(str, packed))}:{int(port, 16)}"
    import _socket  # Not `socket`, which costs 5 ms more; only where there is IPv6.

    return f"[{_socket.inet_ntop(_socket.AF_INET6, packed)}]:{int(port, 16)}"
