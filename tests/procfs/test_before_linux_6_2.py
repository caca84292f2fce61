"""Kernels before 6.2, where the size of `/proc/PID/fd` is 0: every caller of `size_is_count` has to list instead.

The answer is forced in every module that asks, one after the other and in all at once.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
from types import ModuleType

import pytest
from procfs_targets import Spawn, Start, run_program
from public_readers import catalogue, failures

import amidiag
from amidiag.model import PeerCounts
from amidiag.procfs import fds
from amidiag.procfs.fds import count
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.procfs.processes import read_stat, snapshot
from amidiag.procfs.sampler import ProcessSampler, light_sample

ROOMS = ("attach", "diagnosis", "procfs", "series")


def askers() -> list[ModuleType]:
    """Every module that has `size_is_count`."""
    modules = []
    for room in ROOMS:
        for path in amidiag.__path__:
            for found in pkgutil.iter_modules([f"{path}/{room}"]):
                modules.append(importlib.import_module(f"amidiag.{room}.{found.name}"))
    return [module for module in modules if getattr(module, "size_is_count", None) is fds.size_is_count]


ASKERS = askers()


@pytest.fixture(params=[*ASKERS, "all"], ids=lambda one: one if isinstance(one, str) else one.__name__)
def before_6_2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old answer in one module, or in all."""
    for module in ASKERS if request.param == "all" else [request.param]:
        monkeypatch.setattr(module, "size_is_count", lambda: False)


@pytest.fixture
def all_before_6_2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old answer in all modules."""
    for module in ASKERS:
        monkeypatch.setattr(module, "size_is_count", lambda: False)


def test_who_asks() -> None:
    assert {module.__name__ for module in ASKERS} >= {
        "amidiag.procfs.fds",
        "amidiag.procfs.peers",
        "amidiag.procfs.sampler",
    }


@pytest.mark.usefixtures("before_6_2")
def test_counts_are_those_of_the_listing(start: Start) -> None:
    target = start("sleeper")
    with ProcessSampler(identify(target.pid)) as sampler:
        for command in ("fds 10", "fds 300"):
            opened = target.tell(command)["fds"]
            assert count(target.pid) == light_sample(identify(target.pid)).fds == opened
            assert sampler.sample().fds == opened
            assert observe_tree(target.pid).processes[0].fds.open == opened


@pytest.mark.usefixtures("before_6_2")
@pytest.mark.parametrize(
    ("what", "expected"),
    [("orphans", PeerCounts(other=2, nobody=30)), ("twins", PeerCounts(other=2, tree=30))],
)
def test_peers_are_found(start: Start, what: str, expected: PeerCounts) -> None:
    target = start("pipe_ends", what, 30)
    peers = observe_tree(target.pid).processes[0].fds.peers
    assert peers is not None
    assert peers["pipe"] == expected


@pytest.mark.root
@pytest.mark.usefixtures("before_6_2")
def test_what_holds_none(spawn: Spawn) -> None:
    # GIVEN a kernel thread, and a process with no FD
    kernel_threads = [stat.pid for stat in snapshot().values() if stat.kernel_thread]
    closed = spawn(["sh", "-c", "exec sleep 1000 <&- >&- 2>&-"])
    # It sleeps once its libraries are loaded, for which it has files open.
    while (read_stat(closed.pid).name, read_stat(closed.pid).state) != ("sleep", "S"):
        continue
    for pid in (*kernel_threads[:3], closed.pid):
        assert count(pid) == 0


@pytest.mark.root
@pytest.mark.usefixtures("all_before_6_2")
def test_a_stranger_may_not_count(spawn: Spawn) -> None:
    # WHERE to count is to list, who may not list does not know: null and who may, not 0
    target = spawn(["sleep", "1000"])
    seen = run_program("look_before_6_2", 65533, target.pid)
    assert seen["sample"]["fds"] is None
    assert seen["sample"]["memory"]["rss"] > 0
    observation = seen["observation"]
    assert observation["processes"][0]["fds"]["open"] is None
    assert any("number of FDs" in note and "Run as root" in note for note in observation["notes"])
    assert seen["error"] == "NoPermission"


@pytest.mark.usefixtures("all_before_6_2")
def test_every_reader_works() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert failures(catalogue(), [os.getpid(), os.getppid(), gone.pid]) == {}
