"""Threads by name, state and wait channel, against real processes and `ps`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from itertools import count as forever

import pytest
from procfs_targets import Spawn, Start, run_program

from amidiag.model import ThreadGroup
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.processes import read_stat
from amidiag.procfs.threads import threads


def by_ps(pid: int) -> Counter[tuple[str, str, str | None]]:
    """Name, state and wait channel of each thread as `ps` shows them."""
    command = ["ps", "-L", "-o", "comm:20=,state=,wchan:60=", "-p", str(pid)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    seen = Counter((line[:20].strip(), *line[20:].split()) for line in lines)
    return Counter({(name, state, None if w in "-0" else w): n for (name, state, w), n in seen.items()})


def as_counts(groups: tuple[ThreadGroup, ...]) -> dict[tuple[str, str, str | None], int]:
    return {(group.name, group.state, group.waits_in): group.count for group in groups}


def test_threads_agree_with_ps(start: Start) -> None:
    target = start("named_threads", 50)
    found, seen = threads(target.pid), by_ps(target.pid)
    for _ in range(200):
        if as_counts(found) == seen:
            break
        # They said that they were ready before all of them waited for good.
        time.sleep(0.01)
        found, seen = threads(target.pid), by_ps(target.pid)
    assert as_counts(found) == seen
    # The largest group first; a name may hold parentheses and spaces.
    assert (found[0].name, found[0].state, found[0].count) == ("named (x) y", "S", 50)
    assert sum(group.count for group in found) == read_stat(target.pid).threads


def test_the_wait_channel_is_shown_where_the_kernel_shows_it(start: Start) -> None:
    target = start("sleeper")
    for _ in range(200):
        with open(f"/proc/{target.pid}/wchan") as file:
            function = file.read()
        shown = [group.waits_in for group in threads(target.pid)]
        if shown == [None if function == "0" else function]:
            return
        time.sleep(0.01)  # It had not begun to wait.
    raise AssertionError((shown, function))


@pytest.mark.root
def test_a_stranger_gets_names_and_states_and_no_wait_channel(spawn: Spawn) -> None:
    target = spawn(["sleep", "1000"])
    groups = run_program("surroundings_as", 65533, target.pid)["threads"]
    assert [(group["name"], group["waits_in"], group["count"]) for group in groups] == [("sleep", None, 1)]
    assert groups[0]["state"] in ("S", "R")


def test_a_stopped_process(start: Start) -> None:
    target = start("named_threads", 5)
    os.kill(target.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
    while {group.state for group in threads(target.pid)} != {"T"}:
        continue  # Each thread stops by itself.
    assert read_stat(target.pid).state == "T"


def test_threads_that_end_by_the_hundred(start: Start) -> None:
    target = start("named_threads", 5)
    assert target.process.stdin
    target.process.stdin.write("go\n")
    target.process.stdin.flush()
    with pytest.raises(ProcessGone):
        for _ in forever():
            assert threads(target.pid)


def test_one_that_is_not_there() -> None:
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    for _ in ("a zombie", "nothing"):
        with pytest.raises(ProcessGone):
            threads(gone.pid)
        gone.wait()


def test_the_pin_thread_of_a_loader_shows_by_name(start: Start) -> None:
    target = start("pinning")
    assert "pt_data_pin" in [group.name for group in threads(target.pid)]
