"""The question to the kernel about far ends: both ways of asking give the same answers, and leave nothing open."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from procfs_targets import Start, run_program

from amidiag.procfs.fds import READ, WRITE
from amidiag.procfs.probe import FarEndProbe

HOLDER = """
import os, sys
read, other = os.pipe(); os.close(other)
other, write = os.pipe(); os.close(other)
whole = os.pipe()
file = os.open(sys.argv[1], os.O_RDONLY)
print(read, write, *whole, file, flush=True)
sys.stdin.read()
"""

both_ways = pytest.mark.parametrize("copying", [True, False], ids=["copied", "opened"])


@pytest.fixture
def holder() -> Iterator[tuple[int, list[int]]]:
    with (
        tempfile.NamedTemporaryFile() as file,
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        yield process.pid, [int(fd) for fd in process.stdout.readline().split()]
        process.stdin.close()


def pipe(pid: int, fd: int) -> str:
    return f"pipe:[{os.stat(f'/proc/{pid}/fd/{fd}').st_ino}]"


@both_ways
def test_of_another_process(holder, copying: bool) -> None:
    pid, (read, write, whole_read, whole_write, _) = holder
    with FarEndProbe(pid, copying=copying) as probe:
        ends = [(str(fd), pipe(pid, fd)) for fd in (read, write, whole_read, whole_write)]
        assert probe.lonely(ends) == [READ, WRITE, 0, 0]


@both_ways
def test_what_is_no_such_pipe_is_not_judged(holder, copying: bool) -> None:
    pid, (read, write, _, _, file) = holder
    with FarEndProbe(pid, copying=copying) as probe:
        ends = [(str(file), pipe(pid, file)), (str(read), pipe(pid, write)), ("4000", pipe(pid, read))]
        # Also where one that is judged stands among them.
        assert probe.lonely([*ends, (str(read), pipe(pid, read)), *ends]) == [*[None] * 3, READ, *[None] * 3]


def test_of_any_pipe_that_the_number_leads_to_by_now(holder) -> None:
    pid, (read, write, whole_read, _, file) = holder
    with FarEndProbe(pid) as probe:
        ends = [(str(fd), pipe(pid, file)) for fd in (read, write, whole_read)]
        assert probe.lonely(ends, any_pipe=True) == [READ, WRITE, 0]
        # Also where what is no pipe, or closed, stands among them.
        for other in (file, 4000):
            mixed = [ends[0], (str(other), pipe(pid, read)), ends[1]]
            assert probe.lonely(mixed, any_pipe=True) == [READ, None, WRITE]


@both_ways
def test_nothing_stays_open(holder, copying: bool) -> None:
    pid, (read, *_, file) = holder
    before = os.listdir("/proc/self/fd")
    with FarEndProbe(pid, copying=copying) as probe:
        probe.lonely([(str(fd), pipe(pid, read)) for fd in (read, file, 4000)])
    assert os.listdir("/proc/self/fd") == before


def test_nothing_stays_open_where_it_is_interrupted(holder, monkeypatch) -> None:
    pid, (read, *_) = holder
    ends = [(str(read), pipe(pid, read))] * 20
    before = os.listdir("/proc/self/fd")
    with FarEndProbe(pid) as probe:
        call, calls = probe._copier._call, []

        def interrupted(*words: int) -> int:
            calls.append(call(*words))
            if len(calls) == 10:
                raise KeyboardInterrupt
            return calls[-1]

        monkeypatch.setattr(probe._copier, "_call", interrupted)
        with pytest.raises(KeyboardInterrupt):
            probe.lonely(ends)
        # The last copy is the test's own loss: the call of C that makes one is not interrupted.
        os.close(calls[-1])
    assert len(calls) == 10
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("free", [1, 2, 7, 500])
def test_at_our_own_limit_fewer_are_asked_at_once(start: Start, free: int) -> None:
    target = start("pipe_ends", "orphans", 100)
    assert run_program("probe_with_few_fds", target.pid, free) == [READ, WRITE] * 50


def test_without_any_free_descriptor_it_says_so(start: Start) -> None:
    target = start("pipe_ends", "orphans", 3)
    assert run_program("probe_with_few_fds", target.pid, 0) == os.strerror(errno.EMFILE)


def test_a_target_at_its_limit_is_asked_like_any_other(start: Start) -> None:
    # The copies are in our table. GIVEN a process that cannot open anything any more
    target = start("pipe_ends", "orphans", 100)
    resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (3, 3))
    assert run_program("probe_with_few_fds", target.pid, 500) == [READ, WRITE] * 50
