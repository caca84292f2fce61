"""Shared memory: every kind, once each, to the byte."""

from __future__ import annotations

import os
import subprocess

import pytest
from procfs_targets import Spawn, Start, run_program

from amidiag.procfs.observe import observe_tree

MIB = 1 << 20
NOBODY = 65534


@pytest.mark.root
def test_every_kind_is_counted_once_over_the_tree(start: Start) -> None:
    # GIVEN three processes that share memory of every kind, some held only by FD, some only mapped
    target = start("shared_memory")
    # WHEN the tree is observed
    observation = observe_tree(target.pid)
    # THEN each process holds exactly what was allocated, by kind
    assert len(observation.processes) == 3
    for process in observation.processes:
        assert process.shm.by_kind == {**target.said, "device": 0}
        assert process.shm.held == sum(target.said.values())
    # AND the tree holds it once
    assert observation.tree.shm_unique == sum(target.said.values())
    assert observation.tree.shm_unique_is_lower_bound is False
    assert observation.notes == ()


@pytest.mark.root
def test_rss_does_not_see_what_is_held_by_fd_alone(start: Start) -> None:
    target = start("shared_memory")
    use = observe_tree(target.pid).processes[0].shm
    assert use.rss is not None
    assert use.held is not None
    # Only anonymous and SysV memory was touched; the rest was allocated, and is held.
    assert use.rss < use.held - (target.said["torch"] + target.said["posix"]) + MIB


@pytest.mark.root
def test_the_owner_who_is_not_root_gets_a_lower_bound(start: Start) -> None:
    # GIVEN a process of an ordinary user
    target = start("shared_memory", NOBODY)
    # WHEN that user looks
    seen = run_program("look_as", NOBODY, target.pid)["observation"]
    # THEN what can be followed is there, and it is said that there may be more
    followed = {kind: target.said[kind] for kind in ("torch", "memfd", "sysv")}
    assert seen["processes"][0]["shm"]["by_kind"] == {"posix": 0, "anonymous": 0, "device": 0, **followed}
    assert seen["tree"]["shm_unique"] == sum(followed.values())
    assert seen["tree"]["shm_unique_is_lower_bound"] is True
    assert any("lower bound" in note for note in seen["notes"])


def test_dev_shm_of_this_mount_namespace() -> None:
    here = os.statvfs("/dev/shm")
    seen = observe_tree(os.getpid(), peers=False).tree.dev_shm
    assert seen is not None
    assert seen.size == here.f_blocks * here.f_frsize


@pytest.mark.root
def test_dev_shm_as_the_target_sees_it(spawn: Spawn) -> None:
    # GIVEN a process with a /dev/shm of its own, 32 MiB, 5 of them used
    script = (
        "mount -t tmpfs -o size=32m none /dev/shm && head -c 5M /dev/zero > /dev/shm/torch_1_2_0 "
        "&& exec 5</dev/shm/torch_1_2_0 && echo ready && exec cat"
    )
    target = spawn(["unshare", "--mount", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert target.stdout
    assert target.stdout.readline() == b"ready\n"
    observation = observe_tree(target.pid)
    assert observation.tree.dev_shm is not None
    assert (observation.tree.dev_shm.size, observation.tree.dev_shm.used) == (32 * MIB, 5 * MIB)
    assert observation.processes[0].shm.by_kind is not None
    assert observation.processes[0].shm.by_kind["torch"] == 5 * MIB


def test_without_shm_nothing_is_claimed(start: Start) -> None:
    target = start("shared_memory")
    observation = observe_tree(target.pid, shm=False)
    assert observation.processes[0].shm.held is None
    assert observation.processes[0].shm.by_kind is None
    assert observation.processes[0].shm.rss is not None
    assert observation.tree.shm_unique is None
