"""Every public reader against every process of this machine, and against processes that die while they are read."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
from procfs_targets import Start, Target, run_program
from public_readers import OF_THE_MACHINE, catalogue, failure, failures

from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.fds import count
from amidiag.procfs.processes import all_pids, read_stat

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


def test_every_reader_on_processes_that_die_by_the_hundred(start: Start) -> None:
    # GIVEN a process that has children all the time, of which each lives for some milliseconds
    dying = children_of(start("dying_holders"))
    turns = deque(READERS.of_one.items())
    alive = dict.fromkeys(READERS.of_one, 0)
    touched: set[int] = set()
    # WHEN all readers read the youngest, each time beginning with another one, so that it ends before, under and
    # after every one of them, until a hundred still lived when a reader began
    while min(alive.values()) < 100 or len(touched) < 150:
        if not (new := [pid for pid in dying() if pid not in touched]):
            continue
        touched.add(new[-1])
        for title, read in turns:
            alive[title] += is_alive(new[-1])
            error = failure(lambda: read(new[-1:]), new[-1])  # noqa: B023
            # THEN each answers, or says that it has ended
            assert error is None, (title, new[-1], error)
        turns.rotate()


def test_readers_of_many_while_processes_die_by_the_hundred(start: Start) -> None:
    dying = children_of(start("dying_holders"))
    touched: set[int] = set()
    while len(touched) < 600:
        for title, read in READERS.of_several.items():
            if pids := dying():
                touched.update(pids)
                error = failure(lambda: read(pids))  # noqa: B023
                assert error is None, (title, pids, error)
        for title, look in OF_THE_MACHINE.items():
            assert (error := failure(look)) is None, (title, error)


def children_of(target: Target) -> Callable[[], list[int]]:
    """What lists the PIDs of its children at any moment."""
    file = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    return lambda: [int(pid) for pid in file.read_text().split()]


def is_alive(pid: int) -> bool:
    """Whether it has not ended yet, were it only by now."""
    try:
        return not read_stat(pid).ended
    except ProcessGone:
        return False
