"""Processes and their identity, roles, samples and errors."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
import time
from calendar import timegm

import pytest
from procfs_targets import Spawn, Start

from amidiag.model import Role
from amidiag.procfs import errors
from amidiag.procfs.fds import count
from amidiag.procfs.identity import boot_id, identify, started_at, still
from amidiag.procfs.memory import read_status
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.processes import ProcStat, parse_stat, read_cmdline, read_stat
from amidiag.procfs.roles import guess_roles, has_torch_mapped
from amidiag.procfs.sampler import ProcessSampler, light_sample


def test_identity_lasts_as_long_as_the_process(spawn: Spawn) -> None:
    process = spawn(["cat"], stdin=subprocess.PIPE)
    identity = identify(process.pid)
    assert identity == identify(process.pid)
    assert identity.boot_id == boot_id()
    assert still(identity)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert read_stat(process.pid).state == "Z"
    assert not still(identity)
    process.wait()
    assert not still(identity)


def test_start_time_is_that_of_the_wall_clock(spawn: Spawn) -> None:
    before = time.time()
    process = spawn(["cat"], stdin=subprocess.PIPE)
    after = time.time()
    started = timegm(time.strptime(started_at(identify(process.pid).start_ticks), "%Y-%m-%dT%H:%M:%S+00:00"))
    assert int(before) - 1 <= started <= after + 1


def test_names_that_are_hard_to_parse(spawn: Spawn) -> None:
    code = "import ctypes; ctypes.CDLL(None).prctl(15, b') Z 1 (\\xff'); print(flush=True); input()"
    process = spawn([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    stat = read_stat(process.pid)
    assert (stat.name, stat.parent_pid, stat.ended) == (") Z 1 (\\xff", os.getpid(), False)
    assert read_status(process.pid).threads == stat.threads == 1
    assert read_cmdline(process.pid)[1:] == ("-c", code)


def test_kernel_threads_are_known() -> None:
    line = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0"
    assert parse_stat(2, line).kernel_thread
    assert not read_stat(os.getpid()).kernel_thread


@pytest.mark.parametrize(
    "kind", [errors.ProcessGone, errors.NoPermission, errors.ReaderExhausted, errors.NotLinux]
)
def test_errors_survive_pickling(kind: type[errors.CannotObserve]) -> None:
    error = kind(4711, "ami", "the text")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(twin), twin.pid, twin.name, twin.text, str(twin)) == (
            kind,
            4711,
            "ami",
            "the text",
            "the text",
        )


def test_every_errno_has_a_meaning_with_a_way_out() -> None:
    meanings = {
        errno.ESRCH: (errors.ProcessGone, "Give the PID of a running process"),
        errno.EACCES: (errors.NoPermission, "read"),
        errno.EMFILE: (errors.ReaderExhausted, "Raise `ulimit -n`"),
        errno.ENFILE: (errors.ReaderExhausted, "this machine has no free FD"),
        errno.EIO: (errors.CannotObserve, os.strerror(errno.EIO)),
    }
    for number, (kind, text) in meanings.items():
        error = errors.explain(OSError(number, os.strerror(number)), os.getpid(), "me", "the FDs")
        assert type(error) is kind
        assert text in error.text


def test_roles_of_a_loader_by_fork(start: Start) -> None:
    target = start("loaders", "fork")
    roles = {process.pid: process.role for process in observe_tree(target.pid).processes}
    assert roles[target.pid] == "worker"
    assert roles[target.said] == "loader"
    assert has_torch_mapped(target.pid)
    assert not has_torch_mapped(os.getppid())


def test_roles_of_a_loader_by_fork_server(start: Start) -> None:
    target = start("loaders", "forkserver")
    roles = {process.pid: process.role for process in observe_tree(target.pid).processes}
    assert roles.pop(target.pid) == "worker"
    assert roles.pop(target.said) == "loader"
    assert sorted(roles.values()) == ["fork_server", "resource_tracker"]


def stat(pid: int, parent: int, name: str = "python") -> ProcStat:
    return ProcStat(pid, name, "S", parent, 1, pid, kernel_thread=False)


@pytest.mark.parametrize("with_torch", [True, False])
def test_nameless_loaders_of_older_torch_are_guessed(with_torch: bool) -> None:
    # torch before 2.6 leaves the name: 11 by fork, 12 by spawn, 14 by the fork server 13.
    server = ("python", "-c", "from multiprocessing.forkserver import main; main(5, 6, [], **{})")
    spawned = (
        "python",
        "-c",
        "from multiprocessing.spawn import spawn_main; spawn_main(7)",
        "--multiprocessing-fork",
    )
    cmdlines = {
        10: ("python", "x.py"),
        11: ("python", "x.py"),
        12: spawned,
        13: server,
        14: server,
        15: ("ls",),
    }
    tree = [stat(10, 1), stat(11, 10), stat(12, 10), stat(13, 10), stat(15, 10), stat(14, 13)]
    roles = guess_roles(tree, cmdlines, has_torch=lambda _: with_torch)
    child: Role = "loader" if with_torch else "other"
    assert roles == {
        10: "worker" if with_torch else "other", 11: child, 12: child, 13: "fork_server", 14: child, 15: "other",
    }  # fmt: skip


def test_the_worker_is_known_by_its_command() -> None:
    cmdlines = {
        10: ("bash",),
        11: ("/venv/bin/python", "/venv/bin/ami", "worker", "run"),
        12: ("python", "-m", "worker.cli"),
    }
    roles = guess_roles([stat(10, 1), stat(11, 10), stat(12, 10)], cmdlines, has_torch=lambda _: False)
    assert roles == {10: "other", 11: "worker", 12: "worker"}


@pytest.mark.parametrize("listing", [True, False])
def test_a_sampler_follows_the_process(start: Start, listing: bool) -> None:
    target = start("sleeper")
    with ProcessSampler(identify(target.pid), listing=listing) as sampler:
        for command in ("fds 10", "threads 3", "fds 200"):
            said = target.tell(command)
            sample = sampler.sample()
            assert {"fds": sample.fds, "threads": sample.threads} == said
            assert sample.memory == read_status(target.pid).memory
        target.process.kill()
        # From here on, reaped or not, and whoever gets the PID.
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(errors.ProcessGone):
            sampler.sample()
        target.process.wait()
        with pytest.raises(errors.ProcessGone):
            sampler.sample()


def test_samplers_close_what_they_open(start: Start) -> None:
    target = start("sleeper")
    identity = identify(target.pid)
    before = count(os.getpid())
    sampler = ProcessSampler(identity)
    assert count(os.getpid()) == before + 2
    sampler.close()
    sampler.close()
    assert light_sample(identity).fds == count(target.pid)
    target.process.kill()
    target.process.wait()
    with pytest.raises(errors.ProcessGone):
        ProcessSampler(identity)
    assert count(os.getpid()) == before
