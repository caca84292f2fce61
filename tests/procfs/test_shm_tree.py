"""The shared memory of a tree segment by segment: real loaders, real sharing, to the byte."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from procfs_targets import Spawn, Start, Target

from amidiag.model import SegmentUse
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.shm_tree import TreeSegments, read_segments
from amidiag.procfs.tree import read_tree

MIB = 1 << 20
PREFETCH = 4


def segments_of(pid: int) -> TreeSegments:
    tree = read_tree(identify(pid))
    return read_segments([(identify(stat.pid), stat.name) for stat in tree])


def batches_in(seen: TreeSegments) -> list[SegmentUse]:
    return [segment for segment in seen.segments if segment.kind == "torch"]


def when_full(target: Target, seen_by: int) -> TreeSegments:
    """What is seen once the loader has prefetched all that it may."""
    while len(batches_in(segments_of(seen_by))) < PREFETCH + 1:
        assert target.process.poll() is None
        time.sleep(0.05)
    return segments_of(seen_by)


@pytest.mark.root
def test_a_loader_holds_prefetch_and_one_batches_most_of_them_in_flight(start: Start) -> None:
    # GIVEN a DataLoader of which one batch was taken, and the queue is full
    target = start("batches", "file_descriptor", PREFETCH)
    loader, batch = target.said["loader"], target.said["batch"]
    seen = when_full(target, target.pid)
    batches = batches_in(seen)
    # THEN there are prefetch + 1 batches, exactly
    assert [segment.allocated for segment in batches] == [batch] * (PREFETCH + 1)
    assert all(segment.deleted and segment.size == batch for segment in batches)
    # AND the one that was taken is mapped by the parent, the others are held by the loader alone
    taken = [segment for segment in batches if segment.mapped_by]
    assert [(segment.mapped_by, segment.in_flight) for segment in taken] == [((target.pid,), False)]
    queued = [segment for segment in batches if not segment.mapped_by]
    assert all(segment.held_by == (loader,) and segment.in_flight for segment in queued)
    assert seen.in_flight == PREFETCH * batch
    # AND the loader made all of them, and lives
    assert {(segment.creator, segment.creator_alive) for segment in batches} == {(loader, True)}
    assert all(segment.age is not None for segment in seen.segments)


@pytest.mark.root
def test_every_kind_is_told_with_who_maps_and_who_holds(start: Start) -> None:
    # GIVEN three processes that share memory of every kind
    target = start("shared_memory")
    tree = sorted(stat.pid for stat in read_tree(identify(target.pid)))
    seen = {segment.kind: segment for segment in segments_of(target.pid).segments}
    # THEN each is there once, with its allocated bytes and all three that map or hold it
    assert {kind: segment.allocated for kind, segment in seen.items()} == target.said
    assert {k for k, s in seen.items() if sorted(s.held_by) == tree} == {"torch", "memfd"}
    assert {k for k, s in seen.items() if sorted(s.mapped_by) == tree} == {
        "posix",
        "memfd",
        "sysv",
        "anonymous",
    }
    assert [k for k, s in seen.items() if s.in_flight] == ["torch"]
    # AND SysV and torch segments know their maker
    assert {k for k, s in seen.items() if s.creator == target.pid and s.creator_alive} == {"sysv", "torch"}
    # AND size is what was asked for, not what is used
    assert seen["anonymous"].size == 64 * MIB


def test_a_segment_that_another_process_maps_is_not_in_flight(spawn: Spawn) -> None:
    # GIVEN a memfd that this process holds and another one, outside of the tree, holds and maps
    fd = os.memfd_create("shared")
    os.posix_fallocate(fd, 0, MIB)
    alone = read_segments([(identify(os.getpid()), "pytest")])
    (mine,) = [s for s in alone.segments if s.name == "/memfd:shared"]
    assert (mine.mapped_by, mine.held_by, mine.in_flight) == ((), (os.getpid(),), True)
    code = "import mmap, sys; m = mmap.mmap(int(sys.argv[1]), 1); print('ready', flush=True); input()"
    other = spawn(
        [sys.executable, "-c", code, str(fd)],
        pass_fds=[fd],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout and other.stdout.readline() == b"ready\n"
    (mine,) = [
        s for s in read_segments([(identify(os.getpid()), "pytest")]).segments if s.name == "/memfd:shared"
    ]
    os.close(fd)
    # THEN that one is named
    assert (mine.mapped_by, mine.in_flight) == ((other.pid,), False)
    assert Counter(mine.held_by) == Counter((os.getpid(), other.pid))


def test_a_process_that_is_not_there() -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    identity = identify(sleeper.pid)
    sleeper.kill()
    sleeper.wait()
    with pytest.raises(ProcessGone):
        read_segments([(identity, "sleep")])


@pytest.mark.root
def test_what_may_not_be_read_is_not_known_rather_than_none(start: Start) -> None:
    # GIVEN a process of root, and a reader who is not
    target = start("shared_memory")
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        seen = read_segments([(identify(target.pid), "python")])
        honest = (seen.segments, seen.in_flight, seen.refused) == ((), None, (target.pid,))
        os._exit(0 if honest else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
