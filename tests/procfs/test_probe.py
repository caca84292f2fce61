"""The question to the kernel about far ends: both ways of asking give the same answers, and leave nothing open."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

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


def inode(pid: int, fd: int) -> int:
    return os.stat(f"/proc/{pid}/fd/{fd}").st_ino


@both_ways
def test_of_another_process(holder, copying: bool) -> None:
    pid, (read, write, whole_read, whole_write, _) = holder
    with FarEndProbe(pid, copying=copying) as probe:
        asked = {
            fd: probe.is_orphan(str(fd), inode(pid, fd), mode)
            for fd, mode in ((read, READ), (write, WRITE), (whole_read, READ), (whole_write, WRITE))
        }
    assert asked == {read: True, write: True, whole_read: False, whole_write: False}


@both_ways
def test_what_is_no_such_pipe_is_not_judged(holder, copying: bool) -> None:
    pid, (read, write, _, _, file) = holder
    with FarEndProbe(pid, copying=copying) as probe:
        assert probe.is_orphan(str(file), inode(pid, file), READ) is None
        assert probe.is_orphan(str(read), inode(pid, write), READ) is None
        assert probe.is_orphan("4000", inode(pid, read), READ) is None


@both_ways
def test_nothing_stays_open(holder, copying: bool) -> None:
    pid, (read, *_, file) = holder
    before = os.listdir("/proc/self/fd")
    with FarEndProbe(pid, copying=copying) as probe:
        for fd in (read, file):
            probe.is_orphan(str(fd), inode(pid, read), READ)
    assert os.listdir("/proc/self/fd") == before
