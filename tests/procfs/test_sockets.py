"""Sockets: what they are and which is the other end, against `ss`, here and in other network namespaces."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from procfs_targets import PROGRAMS, Spawn, Start

from amidiag.procfs import inet_sockets, sock_diag
from amidiag.procfs.fds import count
from amidiag.procfs.processes import all_pids
from amidiag.procfs.sockets import Socket, read_sockets


def by_name(pid: int, inodes: dict[str, int]) -> dict[str, Socket]:
    found = read_sockets([pid], set(inodes.values()))
    return {name: found[inode] for name, inode in inodes.items() if inode in found}


def test_what_each_socket_is(start: Start) -> None:
    target = start("sockets")
    sockets = by_name(target.pid, target.said["inodes"])
    kinds = {name: (one.protocol, one.state) for name, one in sockets.items()}
    listening = sockets["tcp_listener"].local
    assert kinds["tcp_listener"] == ("tcp", "LISTEN")
    assert kinds["client"] == kinds["accepted"] == kinds["pending"] == ("tcp", "ESTABLISHED")
    assert sockets["client"].remote == sockets["accepted"].local == listening
    assert sockets["client"].local == sockets["accepted"].remote
    assert kinds["left_alone"] == ("tcp", "CLOSE_WAIT")
    assert kinds["udp_server"] == ("udp", None)
    assert kinds["udp_client"] == ("udp", "ESTABLISHED")
    assert kinds["pair"] == ("unix", "ESTABLISHED")
    assert kinds["dgram"][0] == "unix-dgram"
    assert kinds["seqpacket"] == ("unix-seqpacket", "ESTABLISHED")
    assert kinds["unix_listener"] == ("unix", "LISTEN")
    assert sockets["unix_client"].remote == sockets["unix_listener"].local
    assert sockets["unix_listener"].local == f"{target.said['directory']}/a\nsocket"
    assert sockets["abstract"].local == f"@abstract {target.pid}"
    assert kinds["unix_unbound"] == ("unix", None)
    assert (kinds["netlink"], sockets["netlink"].local) == (("netlink", None), "route")
    # These are in no table of the kernel: neither bound nor connected.
    assert not {"tcp_unbound", "netlink_unbound"} & set(sockets)


@pytest.mark.root
def test_sockets_for_root_only(start: Start) -> None:
    target = start("sockets")
    sockets = by_name(target.pid, target.said["inodes"])
    assert sockets["packet"].local == "ethertype 0x0003"
    assert sockets["raw"].protocol == "raw"


def test_the_other_ends(start: Start) -> None:
    target = start("sockets")
    inodes = target.said["inodes"]
    sockets = by_name(target.pid, inodes)
    pairs = [
        ("client", "accepted"), ("pair", "pair_too"), ("dgram", "dgram_too"), ("seqpacket", "seqpacket_too"),
        ("unix_client", "unix_accepted"),
    ]  # fmt: skip
    if "both" in inodes:
        pairs += [("over_four", "accepted_over_four"), ("over_six", "accepted_over_six")]
    for one, other in pairs:
        assert sockets[one].far == (inodes[other],), one
        assert sockets[other].far == (inodes[one],), other
    # Before accept(2) whoever listens has the other end in its queue.
    assert sockets["pending"].far == (inodes["tcp_listener"],)
    assert sockets["unix_pending"].far == (inodes["unix_listener"],)
    assert sockets["udp_client"].far == (inodes["udp_server"],)
    for name in ("left_alone", "pair_left_alone", "udp_left_alone"):
        assert (sockets[name].far, sockets[name].orphan) == ((), True), name
    for name in ("tcp_listener", "udp_server", "unix_listener", "abstract", "unix_unbound", "netlink"):
        assert (sockets[name].far, sockets[name].orphan) == (None, False), name


_STATES = {"ESTAB": "ESTABLISHED", "CLOSE-WAIT": "CLOSE_WAIT", "LISTEN": "LISTEN"}


def test_tcp_agrees_with_ss(start: Start) -> None:
    if not shutil.which("ss"):
        pytest.skip("ss is not installed")
    target = start("sockets")
    sockets = read_sockets([target.pid], set(target.said["inodes"].values()))
    listing = subprocess.run(["ss", "-tanHe"], capture_output=True, text=True, check=True).stdout
    seen = {}
    for line in listing.splitlines():
        found = re.search(r"ino:(\d+)", line)
        if found and int(found[1]) in sockets:
            state, _, _, local, remote = line.split()[:5]
            # `ss` writes the wildcard address of both families as a star.
            seen[int(found[1])] = _STATES[state], local.replace("*", "[::]"), remote
    ours = {inode: one for inode, one in sockets.items() if one.protocol == "tcp"}
    assert seen.keys() == ours.keys()
    for inode, (state, local, remote) in seen.items():
        assert (ours[inode].state, ours[inode].local) == (
            state,
            local.replace("[::ffff:127.0.0.1]", "127.0.0.1"),
        )
        if ours[inode].remote:
            assert ours[inode].remote == remote.replace("[::ffff:127.0.0.1]", "127.0.0.1")


def test_unix_ends_agree_with_ss(start: Start) -> None:
    if not shutil.which("ss"):
        pytest.skip("ss is not installed")
    target = start("sockets")
    listing = subprocess.run(["ss", "-xanH"], capture_output=True, text=True, check=True).stdout
    # The path of one has a newline: only the two inodes are asked of each line.
    peers = {int(m[1]): int(m[2]) for m in re.finditer(r"(\d+) +\* (\d+) *$", listing, re.MULTILINE)}
    inodes = target.said["inodes"]
    sockets = by_name(target.pid, inodes)
    for name in ("pair", "pair_too", "dgram", "seqpacket", "unix_client"):
        assert sockets[name].far == (peers[inodes[name]],), name


@pytest.mark.root
def test_in_another_network_namespace(spawn: Spawn) -> None:
    # GIVEN a program with its own network, on which the loopback device is up
    shell = f"ip link set lo up && exec {sys.executable} {PROGRAMS}/sockets.py"
    target = spawn(["unshare", "--net", "sh", "-c", shell], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    inodes = json.loads(target.stdout.readline())["inodes"]
    # THEN its ends are seen from here, without this process changing its own network
    own = os.readlink("/proc/self/ns/net")
    sockets = by_name(target.pid, inodes)
    assert sockets["client"].far == (inodes["accepted"],)
    assert sockets["pair"].far == (inodes["pair_too"],)
    assert sockets["unix_pending"].far == (inodes["unix_listener"],)
    assert os.readlink("/proc/self/ns/net") == os.readlink("/proc/thread-self/ns/net") == own
    # AND so are those that a process of this network inherited from there, as long as one lives there
    assert read_sockets([os.getpid()], {inodes["client"]}) == {}


def no_channel(pid: int) -> None:
    """A network namespace that this user may not enter."""


def no_diag(channel: object, request: bytes) -> None:
    raise OSError(errno.ENOENT, "unix_diag is not loaded")


@pytest.mark.parametrize(("part", "instead"), [("_channel", no_channel), ("_dump", no_diag)])
def test_without_sock_diag(
    start: Start, monkeypatch: pytest.MonkeyPatch, part: str, instead: Callable[..., None]
) -> None:
    # GIVEN a network namespace that this user may not enter, or a kernel without sock_diag
    target = start("sockets")
    inodes = target.said["inodes"]
    full = by_name(target.pid, inodes)
    monkeypatch.setattr(sock_diag, part, instead)
    sockets = by_name(target.pid, inodes)
    # THEN unix sockets are still what they are, and their other ends are unknown, never nobody's
    assert sockets.keys() == full.keys()
    for name in ("pair", "pair_left_alone", "unix_client", "seqpacket"):
        assert (sockets[name].far, sockets[name].orphan) == ((), False), name
        assert (sockets[name].protocol, sockets[name].state) == (full[name].protocol, full[name].state), name
    assert (sockets["unix_listener"].state, sockets["unix_listener"].far) == ("LISTEN", None)
    assert sockets["abstract"].local == full["abstract"].local
    # AND all that is known of the others stands in `/proc` too
    others = {name: one for name, one in full.items() if not one.protocol.startswith("unix")}
    assert {one.protocol for one in others.values()} >= {"tcp", "udp"}
    assert {name: sockets[name] for name in others} == others


def test_tcp_by_sock_diag_is_what_proc_says(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    target = start("sockets")
    inodes = set(target.said["inodes"].values())
    tables = ("tcp", "tcp6")
    asked = [{row for row in inet_sockets._rows(target.pid, table) if row[3] in inodes} for table in tables]
    monkeypatch.setattr(sock_diag, "_channel", no_channel)
    read = [{row for row in inet_sockets._rows(target.pid, table) if row[3] in inodes} for table in tables]
    assert asked == read
    assert asked[0]
    assert asked[1] or "both" not in target.said["inodes"]  # A machine without IPv6.


@pytest.mark.root
def test_the_sockets_of_every_live_process_and_no_leak() -> None:
    before = count(os.getpid())
    for pid in all_pids():
        inodes: dict[str, Any] = {}
        try:
            links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue  # It has ended, or closed the FD.
        inodes = {link: int(link[8:-1]) for link in links if link.startswith("socket:[")}
        for one in by_name(pid, inodes).values():
            assert one.protocol
            assert not (one.orphan and one.far)
    assert count(os.getpid()) == before
