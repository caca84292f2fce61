"""The full look at real trees: what is there, what dies, what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
from procfs_targets import Spawn, Start, run_program

from amidiag.model import Counters, Identity, PeerCounts, StatusView
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.fds import count
from amidiag.procfs.identity import identify
from amidiag.procfs.limits import nofile_limit
from amidiag.procfs.observe import observe_tree

NOBODY, STRANGER = 65534, 65533


def test_an_observation_agrees_with_the_process(start: Start) -> None:
    target = start("pipe_ends", "twins", 10)
    observation = observe_tree(target.pid)
    root, child = observation.processes
    assert (root.pid, child.pid, child.parent_pid) == (target.pid, target.said["child"], target.pid)
    assert root.parent_pid == os.getpid()
    assert root.fds.open == count(target.pid)
    assert root.fds.by_type is not None
    assert sum(root.fds.by_type.values()) == root.fds.open
    assert root.fds.peers == {"pipe": PeerCounts(other=2, tree=10)}
    assert (root.fds.soft_limit, root.fds.hard_limit) == nofile_limit(target.pid)
    assert root.memory.rss == sum(
        part for part in (root.memory.anonymous, root.memory.file, root.memory.shmem) if part is not None
    )
    assert observation.notes == ()
    json.dumps(asdict(observation))


def test_status_comes_from_above_and_makes_a_worker(start: Start) -> None:
    target = start("pipe_ends", "twins", 1)
    view = StatusView("polling", 0.5, Counters(polls=3))

    def reader(identity: Identity) -> StatusView | None:
        return view if identity == identify(target.pid) else None

    root, child = observe_tree(identify(target.pid), status_reader=reader).processes
    assert (root.status, root.role) == (view, "worker")
    assert (child.status, child.role) == (None, "other")


def test_a_process_at_its_fd_limit(start: Start) -> None:
    target = start("at_fd_limit", 500)
    assert target.said == "EMFILE"
    fds = observe_tree(target.pid).processes[0].fds
    assert fds.open == fds.soft_limit == 500


def test_a_process_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    # A zombie has ended, and so has what its PID was once reaped.
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ProcessGone, match=f"process {gone.pid} .true. has ended"):
        observe_tree(gone.pid)
    gone.wait()
    for pid in (gone.pid, 0, -1, 2**40):
        with pytest.raises(ProcessGone, match=f"no process {pid}"):
            observe_tree(pid)


def test_another_process_of_the_same_pid_is_not_taken_for_it(start: Start) -> None:
    target = start("sleeper")
    earlier = Identity(identify(target.pid).boot_id, target.pid, identify(target.pid).start_ticks - 1)
    with pytest.raises(ProcessGone):
        observe_tree(earlier)


def test_zombie_children_are_named_and_hold_nothing(spawn: Spawn) -> None:
    code = "import os; pid = os.fork() or os._exit(0); os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT); input(pid)"
    target = spawn([sys.executable, "-uc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    zombie = os.read(target.stdout.fileno(), 100).decode()
    observation = observe_tree(target.pid)
    assert [process.pid for process in observation.processes] == [target.pid]
    assert any("zombie" in note and zombie in note for note in observation.notes)


def test_trees_whose_processes_die_by_the_hundred(start: Start) -> None:
    # GIVEN a process whose 600 children end while they are read, and which then ends itself
    target = start("dying", 600)
    notes: set[str] = set()
    # WHEN it is observed without pause THEN nothing but its own end ever stops that
    with pytest.raises(ProcessGone):
        while True:
            observation = observe_tree(target.pid)
            assert observation.processes[0].pid == target.pid
            notes.update(observation.notes)
    assert any("zombies" in note for note in notes)
    assert any("ended while the tree was read" in note for note in notes)


@pytest.mark.root
def test_a_stranger_gets_the_count_and_is_told_who_may_see_more(spawn: Spawn) -> None:
    # GIVEN a process of user nobody, and another user who is not root
    target = spawn(["sleep", "1000"], user=NOBODY, group=NOBODY, extra_groups=[])
    seen = run_program("look_as", STRANGER, target.pid)
    process = seen["observation"]["processes"][0]
    # THEN the count, the limit and the memory are there, the rest is not, and a note says why
    assert seen["count"] == process["fds"]["open"] == seen["sample"]["fds"] == count(target.pid)
    assert process["fds"]["soft_limit"] == nofile_limit(target.pid).soft
    assert process["memory"]["rss"] > 0
    assert process["fds"]["by_type"] is process["fds"]["peers"] is process["shm"]["held"] is None
    assert seen["observation"]["tree"] == {
        "shm_unique": None,
        "shm_unique_is_lower_bound": None,
        "dev_shm": None,
    }
    assert seen["error"] == "NoPermission"
    advice = "it belongs to user nobody (uid 65534) and you are uid 65533. Run as root or as user nobody (uid 65534)."
    assert seen["text"] == f"the FDs of process {target.pid} cannot be read: {advice}"
    assert any(advice in note and "types and peers" in note for note in seen["observation"]["notes"])


def test_the_reader_with_few_fds_of_its_own(start: Start) -> None:
    target = start("pipe_ends", "orphans", 20)
    answers = [run_program("look_with_few_fds", target.pid, free) for free in range(7)]
    exhausted = [answer for answer in answers if not isinstance(answer, int)]
    # Four are enough; with fewer it says whose the shortage is.
    assert answers[4:] == [count(target.pid)] * 3
    assert exhausted
    for kind, text in exhausted:
        assert kind == "ReaderExhausted"
        assert "amidiag itself has no free FD left" in text


@pytest.mark.root
def test_where_there_is_no_proc() -> None:
    kind, text = run_program("look_without_proc")
    assert kind == "NotLinux"
    assert "on Linux" in text


def test_imports_stay_light() -> None:
    code = (
        "import sys; import amidiag.procfs.observe, amidiag.procfs.sampler; "
        "print(sorted(set(sys.modules) & {'psutil', 'torch', 'numpy', 'rich', 'typer', 'pydantic', 'requests', "
        "'pathlib', 'subprocess', 'datetime', 'json', 'asyncio', 'multiprocessing', 'logging', 'socket'}))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
