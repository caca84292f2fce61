"""Makes sockets of every kind that needs no device, says the inode of each by name, and waits.

With `child` a forked child holds the other ends of `pair` and `client`, and a copy of `client_copied`.
"""

import contextlib
import json
import os
import signal
import socket
import sys
import tempfile

LOOPBACK = "127.0.0.1"
HELD: dict[str, socket.socket] = {}
DIRECTORY = tempfile.mkdtemp()


def tcp() -> None:
    HELD["tcp_listener"] = listener = socket.create_server((LOOPBACK, 0))
    HELD["client"] = socket.create_connection(listener.getsockname())
    HELD["accepted"] = listener.accept()[0]
    HELD["left_alone"] = socket.create_connection(listener.getsockname())
    listener.accept()[0].close()
    # The kernel has completed the connection, accept(2) was never called.
    HELD["pending"] = socket.create_connection(listener.getsockname())
    with contextlib.suppress(OSError):  # A machine without IPv6.
        HELD["both"] = both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        HELD["over_four"] = socket.create_connection((LOOPBACK, both.getsockname()[1]))
        HELD["accepted_over_four"] = both.accept()[0]
        HELD["over_six"] = socket.create_connection(("::1", both.getsockname()[1]))
        HELD["accepted_over_six"] = both.accept()[0]
    HELD["tcp_unbound"] = socket.socket()


def udp() -> None:
    HELD["udp_server"] = server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("0.0.0.0", 0))
    HELD["udp_client"] = client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.connect((LOOPBACK, server.getsockname()[1]))
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.bind((LOOPBACK, 0))
    HELD["udp_left_alone"] = alone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    alone.connect(gone.getsockname())
    gone.close()


def unix() -> None:
    HELD["pair"], HELD["pair_too"] = socket.socketpair()
    HELD["pair_left_alone"], gone = socket.socketpair()
    gone.close()
    HELD["dgram"], HELD["dgram_too"] = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    HELD["seqpacket"], HELD["seqpacket_too"] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    HELD["unix_listener"] = listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{DIRECTORY}/a\nsocket")
    listener.listen()
    HELD["unix_client"] = client = socket.socket(socket.AF_UNIX)
    client.connect(f"{DIRECTORY}/a\nsocket")
    HELD["unix_accepted"] = listener.accept()[0]
    HELD["unix_pending"] = pending = socket.socket(socket.AF_UNIX)
    pending.connect(f"{DIRECTORY}/a\nsocket")
    HELD["abstract"] = abstract = socket.socket(socket.AF_UNIX)
    abstract.bind(f"\0abstract {os.getpid()}")
    HELD["unix_unbound"] = socket.socket(socket.AF_UNIX)


def rest() -> None:
    HELD["netlink"] = netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    netlink.bind((0, 0))
    HELD["netlink_unbound"] = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    with contextlib.suppress(PermissionError):  # For root only.
        HELD["packet"] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        HELD["raw"] = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def child() -> int:
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        kept = {"pair_too", "accepted", "client_copied"}
        for name, held in HELD.items():
            if name not in kept:
                held.close()
        os.close(tell)
        while True:
            signal.pause()
    os.close(tell)
    os.read(done, 1)
    os.close(done)
    for name in ("pair_too", "accepted"):
        HELD.pop(name).close()
    return pid


tcp()
udp()
unix()
rest()
HELD["client_copied"] = socket.create_connection(HELD["tcp_listener"].getsockname())
started = child() if "child" in sys.argv else None
inodes = {name: os.fstat(held.fileno()).st_ino for name, held in HELD.items()}
print(json.dumps({"child": started, "directory": DIRECTORY, "inodes": inodes}), flush=True)
sys.stdin.readline()
