"""Roles and states of a real torch tree. Loaders, fork server and tracker are in test_identity."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from procfs_targets import Spawn, Start

from amidiag.procfs.observe import observe_tree
from amidiag.procfs.processes import ProcStat
from amidiag.procfs.roles import guess_roles


def test_the_shm_manager_of_torch(start: Start) -> None:
    # GIVEN a program that shares by the file_system strategy
    target = start("shm_manager")
    # THEN its one child is what removes the segments, and it is neither a loader nor makes a worker
    roles = {process.pid: process.role for process in observe_tree(target.pid).processes}
    assert roles == {target.pid: "other", target.said[0]: "shm_manager"}


def test_a_thing_that_only_starts_a_worker_is_none() -> None:
    words = ("/venv/bin/python", "/venv/bin/ami", "worker", "run")
    tree = [ProcStat(pid, "x", "S", pid - 1, 1, pid, kernel_thread=False) for pid in (10, 11)]
    roles = guess_roles(tree, {10: ("timeout", "60", *words), 11: words}, has_torch=lambda _: False)
    assert roles == {10: "other", 11: "worker"}


def test_a_stopped_process_is_said(spawn: Spawn) -> None:
    target = spawn(["sleep", "1000"])
    assert not any("stopped" in note for note in observe_tree(target.pid).notes)
    os.kill(target.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
    assert f"stopped by a signal, until SIGCONT: PID {target.pid}." in observe_tree(target.pid).notes


@pytest.mark.root
def test_a_traced_process_is_said(spawn: Spawn) -> None:
    # GIVEN a process that a tracer holds
    target = spawn(["sleep", "1000"])
    code = (
        "import ctypes, os; p = ctypes.CDLL(None, use_errno=True).ptrace; "
        f"assert p(16, {target.pid}, 0, 0) == 0; os.waitpid({target.pid}, 0x40000000); "
        "os.write(1, b'ready'); os.read(0, 1)"
    )
    tracer = spawn(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert tracer.stdout
    try:
        assert tracer.stdout.read(5) == b"ready"
        assert f"stopped by what traces it (a debugger): PID {target.pid}." in observe_tree(target.pid).notes
    finally:
        # Before its target, which only its tracer can reap else.
        tracer.kill()
        tracer.wait()
