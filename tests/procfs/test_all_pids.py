"""Every public reader against every process of this machine, and against processes that die while they are read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from procfs_targets import Start, Target, run_program
from public_readers import OF_THE_MACHINE, catalogue, failure, failures

from amidiag.procfs.fds import count
from amidiag.procfs.processes import all_pids

READERS = catalogue()


def test_every_reader_is_known() -> None:
    # A new one takes something that public_readers.py cannot make yet: say there how.
    assert READERS.unknown == []
    assert {
        "cgroups.cgroup_memory", "fds.count", "fds.scan", "identity.identify", "limits.nofile_limit",
        "memory.read_status", "mounts.read_mounts", "observe.observe_tree", "open_files.list_open",
        "sampler.light_sample", "shm.dev_shm", "shm.read_holding", "surroundings.surroundings",
        "tasks.namespace_pids", "threads.threads", "tree.read_tree",
    } <= set(READERS.of_one)  # fmt: skip
    assert {"far_ends.find_far_ends", "fd_look.look", "peers.find_peers"} <= set(READERS.of_several)


@pytest.mark.parametrize("title", OF_THE_MACHINE)
def test_readers_of_the_machine(title: str) -> None:
    before = count(os.getpid())
    assert failure(OF_THE_MACHINE[title]) is None
    assert count(os.getpid()) == before


def test_every_reader_on_every_live_process() -> None:
    before = count(os.getpid())
    pids = all_pids()
    assert os.getpid() in pids
    assert failures(READERS, pids) == {}
    # THEN none of them keeps an FD
    assert count(os.getpid()) == before


@pytest.mark.root
def test_every_reader_as_a_stranger() -> None:
    # Another user may read little of most processes: no reader may trip over that.
    seen = run_program("readers_as", 65533)
    assert seen["pids"] > 3
    assert seen["failures"] == {}


def test_every_reader_on_what_is_no_process() -> None:
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    assert failures(READERS, [gone.pid]) == {}, "a zombie"
    gone.wait()
    assert failures(READERS, [gone.pid, 0, -1, 2**22, 2**40]) == {}


@pytest.mark.parametrize("title", READERS.of_one)
def test_every_reader_on_processes_that_die_by_the_hundred(start: Start, title: str) -> None:
    # GIVEN a process that has children all the time, of which each lives for some milliseconds
    dying = children_of(start("dying_holders"))
    touched: set[int] = set()
    # WHEN the reader reads each as it comes THEN it answers, or says that it has ended
    while len(touched) < 150:
        for pid in dying():
            touched.add(pid)
            error = failure(lambda: READERS.of_one[title]([pid]), pid)  # noqa: B023
            assert error is None, (pid, error)


@pytest.mark.parametrize("title", [*READERS.of_several, *OF_THE_MACHINE])
def test_readers_of_many_while_processes_die_by_the_hundred(start: Start, title: str) -> None:
    dying = children_of(start("dying_holders"))
    touched: set[int] = set()
    while len(touched) < 150:
        if pids := dying():
            touched.update(pids)
            read = READERS.of_several.get(title)
            assert failure(OF_THE_MACHINE[title] if read is None else lambda: read(pids)) is None  # noqa: B023


def children_of(target: Target) -> Callable[[], list[int]]:
    """What lists the PIDs of its children at any moment."""
    file = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    return lambda: [int(pid) for pid in file.read_text().split()]
