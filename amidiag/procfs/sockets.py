"""What the sockets of processes are: protocol, state, both addresses, and which socket is the other end.

An FD on a socket tells only its inode; what it is stands in the tables of the network namespace in which
it was made: sock_diag(7) for those of TCP and unix, `/proc/PID/net/*` (proc_pid_net(5)) for the others.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from typing import NamedTuple

LISTEN, CLOSE_WAIT = "LISTEN", "CLOSE_WAIT"


class Socket(NamedTuple):
    """One socket.

    Attributes:
        protocol: `tcp`, `udp`, `raw`, `icmp`, `unix`, `unix-dgram`, `unix-seqpacket`, `netlink`, `packet`.
        state: of TCP as `ss` and the kernel name it (`ESTABLISHED`, `CLOSE_WAIT`), of others `LISTEN`,
            `ESTABLISHED` (connected) or None.
        local, remote: `10.0.0.7:443`, `[::1]:80`, a path, `@` with an abstract name; "" where there is none.
        far: the sockets whose holder holds the other end: the connected one, or before accept(2) the
            listening one; empty where the other end is open and not known which it is; None where
            there is no other end on this machine.
        orphan: the other end has been closed: nobody holds it, and `far` is empty.
    """

    protocol: str
    state: str | None
    local: str
    remote: str
    far: tuple[int, ...] | None
    orphan: bool = False


def read_sockets(pids: Iterable[int], wanted: Collection[int]) -> dict[int, Socket]:
    """What the sockets with the inodes `wanted` are, as the network namespaces of `pids` say.

    Those are left out that are in no table: neither bound nor connected yet (of TCP), of a protocol without
    a table, or made in a network namespace where none of `pids` lives. Raises CannotObserve, OSError.
    """
    from amidiag.procfs.inet_sockets import read_inet
    from amidiag.procfs.unix_sockets import read_unix

    found: dict[int, Socket] = {}
    for pid in _one_of_each_namespace(pids):
        for reader in (read_unix, read_inet, _read_netlink, _read_packet):
            missing = {inode for inode in wanted if inode not in found}
            if not missing:
                return found
            found |= reader(pid, missing)
    return found


def _one_of_each_namespace(pids: Iterable[int]) -> list[int]:
    """A process of each network namespace; the reader's own last, where inherited sockets may come from."""
    found: dict[str, int] = {}
    for pid in (*pids, os.getpid()):
        try:
            found.setdefault(os.readlink(f"/proc/{pid}/ns/net"), pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has ended.
        except PermissionError:
            found.setdefault(f"of {pid}", pid)  # Its tables may be read for all that.
    return list(found.values())


def rows(pid: int, table: str, *, titles: int = 1) -> list[list[str]]:
    """The words of each line of `/proc/PID/net/TABLE` but the titles; empty where the kernel has no such table."""
    try:
        with open(f"/proc/{pid}/net/{table}", "rb") as file:
            text = file.read().decode("utf-8", "surrogateescape")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return []  # No IPv6 here, say, or the process has ended: its sockets stay unnamed.
    except OSError as error:
        if error.errno == _EINVAL:
            return []  # It is just ending and has left its namespace.
        raise
    # Only a newline ends a line: the path of a unix socket may hold what `splitlines` takes for one too.
    return [line.split() for line in text.split("\n")[titles:] if line]


_EINVAL = 22

# include/uapi/linux/netlink.h
_NETLINK = {
    "0": "route", "2": "usersock", "4": "sock_diag", "6": "xfrm", "7": "selinux", "8": "iscsi", "9": "audit",
    "10": "fib_lookup", "11": "connector", "12": "netfilter", "15": "uevent", "16": "generic",
    "18": "scsi", "20": "rdma", "21": "crypto",
}  # fmt: skip


def _read_netlink(pid: int, wanted: Collection[int]) -> dict[int, Socket]:
    return {
        int(row[9]): Socket("netlink", None, _NETLINK.get(row[1], row[1]), "", None)
        for row in rows(pid, "netlink")
        if int(row[9]) in wanted
    }


def _read_packet(pid: int, wanted: Collection[int]) -> dict[int, Socket]:
    return {
        int(row[8]): Socket("packet", None, f"ethertype 0x{row[3]}", "", None)
        for row in rows(pid, "packet")
        if int(row[8]) in wanted
    }
