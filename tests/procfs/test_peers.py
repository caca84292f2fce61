"""Who holds the other end of a pipe: living twins, orphans, copies and strangers told apart."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import sys

import pytest
from procfs_targets import PROGRAMS, Spawn, Start, run_program

from amidiag.model import PeerCounts
from amidiag.procfs import peers
from amidiag.procfs.fds import READ, scan
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.probe import FarEndProbe
from amidiag.procfs.tree import read_tree

# Every target's standard input and output are pipes to the test, which is outside of its tree.
STDIO = 2


def peers_of(pid: int) -> dict[int, PeerCounts]:
    """Pipe peers by PID, of the tree at `pid`."""
    scans = [scan(stat.pid) for stat in read_tree(identify(pid))]
    return {owner: counts["pipe"] for owner, counts in peers.find_peers(scans).by_pid.items()}


def test_orphaned_ends_are_nobodys(start: Start) -> None:
    target = start("pipe_ends", "orphans", 300)
    assert peers_of(target.pid) == {target.pid: PeerCounts(other=STDIO, nobody=300)}


def test_their_living_twin_has_peers_in_the_tree(start: Start) -> None:
    target = start("pipe_ends", "twins", 300)
    counts = peers_of(target.pid)
    assert counts[target.pid] == PeerCounts(other=STDIO, tree=300)
    # The child also inherited standard input and output: copies, whose peer is still the test.
    assert counts[target.said["child"]] == PeerCounts(other=STDIO, tree=300)


def test_copies_of_the_same_end_are_no_peers(start: Start) -> None:
    target = start("pipe_ends", "inherited", 300)
    counts = peers_of(target.pid)
    assert counts[target.pid] == counts[target.said["child"]] == PeerCounts(other=STDIO, nobody=300)


def test_both_ends_in_one_process(start: Start) -> None:
    target = start("pipe_ends", "pairs", 300)
    assert peers_of(target.pid) == {target.pid: PeerCounts(other=STDIO, self=600)}


def test_a_descriptor_for_both_directions_is_both_ends(start: Start) -> None:
    target = start("pipe_ends", "both_ways", 300)
    assert peers_of(target.pid) == {target.pid: PeerCounts(other=STDIO, self=300)}


def test_fifos_are_matched_by_inode(start: Start) -> None:
    target = start("pipe_ends", "fifos", 20)
    root = observe_tree(target.pid).processes[0].fds.peers
    assert root is not None
    assert root["fifo"] == PeerCounts(self=20, tree=20)
    # The child alone, with its parent outside of the tree that is looked at.
    child = observe_tree(target.said["child"]).processes[0].fds.peers
    assert child is not None
    assert child["fifo"] == PeerCounts(other=20)


def test_the_living_loader_and_its_kept_sentinels(start: Start) -> None:
    # GIVEN a torch program with a live loader process under fork
    target = start("loaders", "fork")
    # THEN its 3 read and 3 write ends are channels to that loader (FACTS.md 6)
    assert peers_of(target.pid)[target.pid] == PeerCounts(other=STDIO, tree=6)
    # WHEN the loader process ends, while the program keeps its Process object
    assert target.tell("end it") == "ended"
    # THEN two sentinel ends stay, and nobody holds their far ends
    assert peers_of(target.pid)[target.pid] == PeerCounts(other=STDIO, nobody=2)


def test_peers_without_the_count_of_linux_6_2(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    target = start("pipe_ends", "orphans", 30)
    monkeypatch.setattr(peers, "size_is_count", lambda: False)
    assert peers_of(target.pid) == {target.pid: PeerCounts(other=STDIO, nobody=30)}


@pytest.mark.root
def test_hidden_far_ends_are_unknown_and_orphans_are_still_told(spawn: Spawn) -> None:
    # GIVEN a tree of an ordinary user: a child has an orphaned end as its standard input, of a pipe that
    # this user made, and all standard outputs lead to this test, of root
    user = 65534
    target = spawn(
        ["sh", "-c", "true | { cat; echo ready; exec sleep 1000; }"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, user=user, group=user, extra_groups=[],
    )  # fmt: skip
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    # WHEN that user looks at it
    seen = run_program("look_as", user, target.pid)["observation"]
    # THEN what root may hold is unknown, with a note, and the orphan is nobody's: the kernel said so
    shell, child = (process["fds"]["peers"]["pipe"] for process in seen["processes"])
    assert (shell["unknown"], shell["nobody"]) == (1, 0)
    assert (child["unknown"], child["nobody"]) == (1, 1)
    assert any("unknown" in note and "as root" in note for note in seen["notes"])


def test_the_probe_says_what_the_kernel_counts() -> None:
    reader, writer = os.pipe()
    inode = os.fstat(reader).st_ino
    link = f"pipe:[{inode}]"
    with FarEndProbe(os.getpid()) as probe:
        assert probe.lonely([(str(reader), link), (str(writer), link)]) == [0, 0]
        os.write(writer, b"left behind")
        os.close(writer)
        assert probe.lonely([(str(reader), link), (str(reader), f"pipe:[{inode + 1}]")]) == [READ, None]
        # Nothing was read, and the end is where it was.
        assert os.read(reader, 100) == b"left behind"
        assert os.read(reader, 100) == b""
        os.close(reader)
        assert probe.lonely([(str(reader), link)]) == [None]


def test_an_end_in_flight_in_a_socket_is_somebodys(spawn: Spawn) -> None:
    # GIVEN a process whose write end is in a socket buffer, in no descriptor of any process
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [sys.executable, str(PROGRAMS / "pipe_ends.py"), "passed", str(there.fileno())]
    target = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[there.fileno()])
    there.close()
    with here, FarEndProbe(target.pid) as probe:
        assert target.stdout
        fd = json.loads(target.stdout.readline())["reader"]
        link = os.readlink(f"/proc/{target.pid}/fd/{fd}")
        # THEN the kernel still counts it
        assert probe.lonely([(str(fd), link)]) == [0]
        _, control, _, _ = here.recvmsg(1, socket.CMSG_SPACE(4))
        os.close(array.array("i", control[0][2][:4])[0])
        assert probe.lonely([(str(fd), link)]) == [READ]
