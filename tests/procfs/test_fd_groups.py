"""FDs in groups as a person names them, and who holds the other ends, on real trees and against lsof and lsfd."""

from __future__ import annotations

import array
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from procfs_targets import Spawn, Start

from amidiag.model import FdGroup, PeerCounts
from amidiag.procfs import peers, probe
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.fd_look import look
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.peers import Sight


def groups_of(pid: int, *, tree_of: int | None = None) -> tuple[FdGroup, ...]:
    """The groups of one process, in a look at the tree of `tree_of`."""
    seen = look([identify(tree_of or pid)], tree=True)
    (found,) = [detail.groups for detail in seen.details if detail.pid == pid]
    assert found is not None
    return found


def of(groups: tuple[FdGroup, ...], kind: str, what: str | None = None) -> list[FdGroup]:
    return [group for group in groups if group.type == kind and what in (None, group.what)]


def by_peer(groups: tuple[FdGroup, ...], kind: str) -> dict[str | None, FdGroup]:
    found = of(groups, kind)
    assert len({group.peer for group in found}) == len(found), found
    return {group.peer: group for group in found}


def test_orphaned_ends_are_one_line(start: Start) -> None:
    target = start("pipe_ends", "orphans", 3000)
    pipes = by_peer(groups_of(target.pid), "pipe")
    assert pipes.keys() == {"nobody", "other"}
    orphans = pipes["nobody"]
    assert (orphans.count, orphans.what, orphans.mode) == (3000, "pipe", "r,w")
    assert (orphans.peer_processes, orphans.inherited, orphans.bytes) == ({}, 0, None)
    assert len(orphans.fds) == 10
    assert pipes["other"].peer_processes == {str(os.getpid()): 2}


def test_living_twins_say_which_process_they_lead_to(start: Start) -> None:
    target = start("pipe_ends", "twins", 300)
    child = target.said["child"]
    assert by_peer(groups_of(target.pid), "pipe")["tree"].peer_processes == {str(child): 300}
    assert by_peer(groups_of(child, tree_of=target.pid), "pipe")["tree"].peer_processes == {
        str(target.pid): 300
    }


def test_inherited_copies_are_no_peers_and_said_to_be_inherited(start: Start) -> None:
    target = start("pipe_ends", "inherited", 300)
    for pid in (target.pid, target.said["child"]):
        group = by_peer(groups_of(pid, tree_of=target.pid), "pipe")["nobody"]
        assert (group.count, group.inherited) == (300, 300)


def test_the_living_loader_and_its_orphans_are_different_lines(start: Start) -> None:
    # GIVEN a live loader process
    target = start("loaders", "fork")
    pipes = by_peer(groups_of(target.pid), "pipe")
    assert (pipes["tree"].count, pipes["tree"].peer_processes) == (6, {str(target.said): 6})
    assert "nobody" not in pipes
    # WHEN it ends, and its sentinel ends are kept
    target.tell("end it")
    # THEN they are a line of their own
    pipes = by_peer(groups_of(target.pid), "pipe")
    assert (pipes["nobody"].count, pipes["nobody"].mode) == (2, "r,w")
    assert "tree" not in pipes


def test_fifos_by_path(start: Start) -> None:
    target = start("pipe_ends", "fifos", 4)
    fifos = of(groups_of(target.pid), "fifo")
    assert sum(group.count for group in fifos) == 8
    assert Counter(group.peer for group in fifos) == {"self": 4, "tree": 4}
    assert all(re.search(r"/\d$", group.what) for group in fifos)
    assert {pid for group in fifos for pid in group.peer_processes} == {str(target.said["child"])}


def test_sockets_and_their_other_ends(start: Start) -> None:
    target = start("sockets", "child")
    child = str(target.said["child"])
    seen = look([identify(target.pid)], tree=True)
    groups = {detail.pid: detail.groups for detail in seen.details}[target.pid]
    assert groups is not None
    # The pair and the accepted connection lead to the child.
    led = [group for group in of(groups, "socket") if group.peer == "tree"]
    assert sum(group.peer_processes.get(child, 0) for group in led) == 2
    assert {group.what.split()[0] for group in led} == {"unix", "tcp"}
    # What nobody holds any more is told, and a connection that waits to be closed is marked.
    nobodys = sorted(group.what for group in of(groups, "socket") if group.peer == "nobody")
    assert [name.split()[0] for name in nobodys] == ["tcp", "udp", "unix"]
    assert nobodys[0].endswith("CLOSE_WAIT")
    # A listening socket has no other end; one that is bound nowhere is still named.
    (listener,) = [group for group in groups if re.fullmatch(r"tcp 127\.0\.0\.1:\d+ LISTEN", group.what)]
    assert listener.peer is None
    assert of(groups, "socket", "tcp, not bound")
    assert of(groups, "socket", "netlink")
    assert of(groups, "socket", f"unix @abstract {target.pid}")
    # Copies that the fork left in the child are inherited.
    assert sum(group.inherited for group in of(groups, "socket")) == 1
    # The counts of the common part are of the same FDs.
    counts = seen.processes[0].fds.peers
    assert counts is not None
    by_word = Counter({group.peer: 0 for group in groups})
    for group in of(groups, "socket"):
        by_word[group.peer] += group.count
    for word in ("self", "tree", "other", "nobody", "unknown"):
        assert getattr(counts["socket"], word) == by_word[word], word


def test_a_socket_in_flight_is_unknown_never_nobodys() -> None:
    # GIVEN one end here, and the other in the buffer of a socket, in no process
    here, passed = socket.socketpair()
    carrier, far = socket.socketpair()
    with here, carrier, far:
        rights = array.array("i", [passed.fileno()])
        carrier.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        passed.close()
        seen = look([identify(os.getpid())])
        counts = seen.processes[0].fds.peers
        assert counts is not None
        assert counts["socket"].unknown == 1
        assert any("1 socket descriptors" in note for note in seen.notes)


@pytest.mark.parametrize("sees_all", [True, False])
def test_a_pipe_in_flight_is_unknown_never_nobodys(monkeypatch: pytest.MonkeyPatch, sees_all: bool) -> None:
    monkeypatch.setattr(Sight, "all", sees_all)
    # GIVEN a read end here, its write end in the buffer of a socket, in no process; and two read ends of another pipe
    reader, passed = os.pipe()
    twice, passed_too = os.pipe()
    once_more = os.dup(twice)
    carrier, far = socket.socketpair()

    def counts_of_pipes() -> list[tuple[int, int]]:
        seen, observed = look([identify(os.getpid())]), observe_tree(os.getpid())
        assert any("in no process" in note for note in seen.notes + observed.notes) <= sees_all
        peers = [one.processes[0].fds.peers for one in (seen, observed)]
        return [(one["pipe"].unknown, one["pipe"].nobody) for one in peers if one is not None]

    with carrier, far:
        socket.send_fds(carrier, [b"x"], [passed, passed_too])
        os.close(passed)
        os.close(passed_too)
        ((unknown, nobody), again) = counts_of_pipes()
        assert (unknown, nobody) == again
        assert unknown >= 3
        for fd in socket.recv_fds(far, 1, 2)[1]:
            os.close(fd)
        # THEN it is nobody's only when it has been received and closed
        assert counts_of_pipes() == [(unknown - 3, nobody + 3)] * 2
    for fd in (reader, twice, once_more):
        os.close(fd)


def test_where_the_kernel_cannot_be_asked_what_nobody_is_seen_to_hold_is_nobodys(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sight, "all", True)
    monkeypatch.setattr(probe, "_copier", lambda *_: None)
    target = start("pipe_ends", "orphans", 10)
    groups = {(group.peer, group.mode): group.count for group in of(groups_of(target.pid), "pipe")}
    assert groups.get(("nobody", "r,w"), 0) >= 10, groups


def test_many_connections_are_one_line(spawn: Spawn) -> None:
    # GIVEN a server and its clients in one process
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0), backlog=200); keep = []\n"
        "for _ in range(50): keep += [socket.create_connection(s.getsockname()), s.accept()[0]]\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    target = spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    port = int(target.stdout.readline())
    names = {group.what: (group.count, group.peer) for group in of(groups_of(target.pid), "socket")}
    assert names == {
        f"tcp 127.0.0.1:{port} LISTEN": (1, None),
        f"tcp → 127.0.0.1:{port} ESTABLISHED": (50, "self"),
        f"tcp 127.0.0.1:{port} ← * ESTABLISHED": (50, "self"),
    }


def test_files_that_belong_together(start: Start) -> None:
    target = start("named_files")
    directory = target.said["directory"]
    groups = groups_of(target.pid)
    found = {group.what: group for group in groups if group.type not in ("pipe", "socket")}
    assert (found[f"{directory}/images/*"].count, found[f"{directory}/images/*"].mode) == (20, "r")
    assert all(found[f"{directory}/logs/{number}.jpg"].mode == "w" for number in range(3))
    assert (found["/dev/shm/torch_*"].count, found["/dev/shm/torch_*"].bytes) == (24, 12 * 4096)
    assert (found["/dev/shm/psm_*"].count, found["/dev/shm/psm_*"].type) == (4, "shm")
    assert (found["memfd:arena"].count, found["memfd:arena"].bytes) == (2, 2 * 4096)
    assert found[f"{directory}/gone (deleted)"].type == "deleted"
    assert (found["/dev/null"].count, found["/dev/null"].mode) == (3, "r,w,rw")
    assert (found[directory].type, found[directory].mode) == ("directory", "path")
    # Whatever the kernel gives has its name.
    assert target.said["odd"]
    for kind, what in target.said["odd"].values():
        assert (found[what].type, found[what].count) == (kind, 1)


@pytest.mark.root
def test_the_devices_of_an_accelerator_are_one_line(spawn: Spawn) -> None:
    # GIVEN a /dev with devices of that name, which are /dev/null here
    names = ("nvidia0", "nvidiactl", "nvidia-uvm", "null")
    shell = "mount -t tmpfs none /dev; " + "; ".join(f"mknod /dev/{name} c 1 3" for name in names)
    code = (
        f"import sys; f = [open('/dev/' + n) for n in {names}]; print('ready', flush=True); sys.stdin.read()"
    )
    target = spawn(
        ["unshare", "--mount", "sh", "-c", f'{shell}; exec {sys.executable} -c "$0"', code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    devices = {group.what: group.count for group in of(groups_of(target.pid), "device")}
    assert devices == {"/dev/nvidia*": 3, "/dev/null": 1}


@pytest.mark.root
def test_files_on_any_tmpfs_have_their_memory(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a program in its own mount namespace, with a tmpfs that is not /dev/shm
    code = (
        "import sys; f = open('held', 'wb'); f.write(bytes(40960)); f.flush()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    shell = f'mount -t tmpfs none {tmp_path} && cd {tmp_path} && exec {sys.executable} -c "$0"'
    target = spawn(
        ["unshare", "--mount", "sh", "-c", shell, code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    # THEN its files are files, and what they take of the memory is said
    (group,) = of(groups_of(target.pid), "regular", f"{tmp_path}/held")
    assert group.bytes == 40960


def test_pidfds_by_the_process_that_they_lead_to(spawn: Spawn) -> None:
    code = (
        "import os, subprocess, sys\n"
        "ended = subprocess.Popen(['true']); keep = [os.pidfd_open(ended.pid) for _ in range(3)]; ended.wait()\n"
        "os.pidfd_open(os.getpid()); print('ready', flush=True); sys.stdin.read()"
    )
    target = spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    found = {group.what: group.count for group in of(groups_of(target.pid), "pidfd")}
    assert found == {"pidfd of an ended process": 3, f"pidfd of {target.pid}": 1}


def test_no_fd_is_left_out(start: Start) -> None:
    # GIVEN thousands of FDs of every type, also of types that this program has no name for
    target = start("mixed_fds", 3000)
    seen = look([identify(target.pid)])
    fds, groups = seen.processes[0].fds, seen.details[0].groups
    assert groups is not None and fds.by_type is not None
    by_type: Counter[str] = Counter()
    for group in groups:
        by_type[group.type] += group.count
    assert by_type == fds.by_type
    assert sum(by_type.values()) == fds.open
    assert fds.by_type == {**target.said, "pipe": target.said["pipe"] + 2, **_stderr(target.pid, target.said)}
    assert len(groups) < 80


def _stderr(pid: int, said: dict[str, int]) -> dict[str, int]:
    """Standard error of the target is that of this test run, whatever it is."""
    link = os.readlink(f"/proc/{pid}/fd/2")
    if link.startswith("pipe:"):
        return {"pipe": said["pipe"] + 3}
    kind = "device" if link.startswith("/dev/") else "deleted" if link.endswith(" (deleted)") else "regular"
    return {kind: said[kind] + 1}


def test_the_holders_agree_with_lsof(start: Start) -> None:
    if not shutil.which("lsof"):
        pytest.skip("lsof is not installed")
    target = start("sockets", "child")
    done = subprocess.run(
        ["lsof", "-nP", "+E", "-a", "-p", f"{target.pid},{target.said['child']}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # THEN for each FD of the target that leads to the child, lsof names the child as its endpoint
    words = {"IPv4", "IPv6", "unix"}
    lines = [line for line in done.stdout.splitlines() if line.split()[1:2] == [str(target.pid)]]
    lines = [line for line in lines if words & set(line.split())]
    led = {int(re.sub(r"\D", "", line.split()[3])) for line in lines if f" {target.said['child']}," in line}
    groups = groups_of(target.pid)
    ours = {fd for group in of(groups, "socket") if group.peer == "tree" for fd in group.fds}
    # lsof calls a copy of the same socket its own endpoint: those are what we call inherited.
    copied = {fd for group in of(groups, "socket") if group.inherited for fd in group.fds}
    assert ours <= led <= ours | copied


def test_modes_agree_with_lsfd(start: Start) -> None:
    if not shutil.which("lsfd"):
        pytest.skip("lsfd is not installed")
    target = start("named_files")
    done = subprocess.run(
        ["lsfd", "-n", "-r", "-p", str(target.pid), "-o", "FD,MODE"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    theirs = {int(row[0]): row[1] for row in rows if len(row) == 2 and row[0].isdecimal()}
    for group in groups_of(target.pid):
        modes = {{"r--": "r", "-w-": "w", "rw-": "rw", "---": "path"}[theirs[fd]] for fd in group.fds}
        assert modes <= set((group.mode or "").split(",")), group


def test_several_trees_in_one_look(start: Start) -> None:
    # GIVEN two programs, of which each is its own tree
    twins, orphans = start("pipe_ends", "twins", 20), start("pipe_ends", "orphans", 30)
    child = identify(twins.said["child"])
    # WHEN they are looked at together, and a descendant of one is asked for by itself
    seen = look([identify(twins.pid), identify(orphans.pid), child])
    # THEN each is there once, with the peers that it has in its own tree
    assert [process.pid for process in seen.processes] == [twins.pid, child.pid, orphans.pid]
    pipes = [(process.fds.peers or {})["pipe"] for process in seen.processes]
    assert pipes[:2] == [PeerCounts(other=2, tree=20)] * 2
    assert pipes[2] == PeerCounts(other=2, nobody=30)
    assert seen.tree is None
    # AND the tree of one alone has its shared memory summed up
    assert look([identify(twins.pid)]).tree is not None


def test_one_of_several_that_has_ended_is_left_out_with_a_note(start: Start, spawn: Spawn) -> None:
    target = start("sleeper")
    other = spawn(["sleep", "1000"])
    ended = identify(other.pid)
    other.kill()
    other.wait()
    seen = look([identify(target.pid), ended])
    assert [process.pid for process in seen.processes] == [target.pid]
    assert any(f"left out: process {ended.pid}" in note for note in seen.notes)
    with pytest.raises(ProcessGone):
        look([ended])


def test_only_what_is_new(start: Start) -> None:
    # GIVEN a mark
    target = start("pipe_ends", "orphans", 10)
    identity = identify(target.pid)
    before = {identity: frozenset(mark for _, mark in look([identity]).listings[identity].marks())}
    assert look([identity], before=before).details[0].groups == ()
    # WHEN all was there but two orphaned ends
    orphans = sorted(mark for mark in before[identity] if re.match(r"[3-9] pipe ", mark))[:2]
    kept = {identity: before[identity] - set(orphans)}
    seen = look([identity], before=kept)
    # THEN those are the groups, and the counts are still of all
    (new,) = seen.details[0].groups or ()
    assert (new.type, new.count) == ("pipe", 2)
    assert (seen.processes[0].fds.peers or {})["pipe"].nobody == 10


def test_without_the_count_of_linux_6_2(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    target = start("pipe_ends", "twins", 30)
    pid = target.said["child"]
    full = groups_of(pid)
    monkeypatch.setattr(peers, "size_is_count", lambda: False)
    assert groups_of(pid) == full
    assert by_peer(full, "pipe")["other"].peer_processes == {str(target.pid): 30, str(os.getpid()): 2}


def test_without_peers_only_types_are_counted(start: Start) -> None:
    target = start("pipe_ends", "orphans", 10)
    seen = look([identify(target.pid)], peers=False)
    process, detail = seen.processes[0], seen.details[0]
    assert (process.fds.by_type or {})["pipe"] == 12
    assert (process.fds.peers, detail.groups, detail.threads, detail.surroundings) == (None, None, None, None)


def test_a_tree_that_churns(spawn: Spawn) -> None:
    # GIVEN a program that starts and ends processes all the time
    code = "import subprocess as s\nwhile True: s.run(['true'])"
    target = spawn([sys.executable, "-c", code])
    identity = identify(target.pid)
    for _ in range(5):
        seen = look([identity], tree=True)
        assert seen.processes[0].pid == target.pid
        assert {detail.pid for detail in seen.details} == {process.pid for process in seen.processes}


@pytest.mark.root
def test_a_stranger_sees_counts_and_is_told_who_may_see_more(start: Start) -> None:
    target = start("pipe_ends", "orphans", 30)
    code = (
        "import os, json; from amidiag.procfs.fd_look import look; from amidiag.procfs.identity import identify\n"
        "import amidiag.procfs.inet_sockets, amidiag.procfs.unix_sockets, amidiag.procfs.socket_names, pwd\n"
        f"identity = identify({target.pid}); look([identity])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "seen = look([identity]); detail, process = seen.details[0], seen.processes[0]\n"
        "print(json.dumps([process.fds.open, process.fds.peers, detail.groups, seen.notes]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened, peers, groups, notes = json.loads(done.stdout)
    assert (peers, groups) == (None, None)
    assert opened is None or opened >= 30
    assert any("root" in note for note in notes)
