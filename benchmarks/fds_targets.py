"""Real processes to look at: a tree whose members hold a given number of FDs, mixed as in a leaking worker."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

_SHARED_PIPES = 250
# Of a leaking worker's FDs nearly all are orphaned pipe ends (FACTS 1: 65,501 of 66,881).
_TREE = f"""
import os, socket, sys, tempfile, time

def fill(until):
    kept = [tempfile.TemporaryFile() for _ in range(until // 100)]
    kept += [socket.socketpair() for _ in range(until // 400)]
    kept += [socket.socket() for _ in range(until // 400)]
    kept += [os.eventfd(0) for _ in range(until // 200)]
    kept += [os.memfd_create("arena") for _ in range(until // 400)]
    while True:
        read, write = os.pipe()
        os.close(write)
        if read >= until - 1:
            return kept

each, children = int(sys.argv[1]), int(sys.argv[2])
for _ in range(children):
    channels = [os.pipe() for _ in range({_SHARED_PIPES} if each > 1000 else 1)]
    pid = os.fork()
    for read, write in channels:
        os.close(write if pid == 0 else read)
    if pid == 0:
        break
kept = fill(each)
os.write(1, b"%d\\n" % os.getpid())  # In one piece: the others write into the same pipe.
time.sleep(3600)
"""


@contextlib.contextmanager
def tree(each: int, children: int = 0) -> Iterator[list[int]]:
    """PIDs of a process and its children, the root first, each with about `each` open FDs; then ended."""
    root = subprocess.Popen(
        [sys.executable, "-c", _TREE, str(each), str(children)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert root.stdout is not None
    try:
        ready = {int(root.stdout.readline()) for _ in range(children + 1)}
        yield [root.pid, *sorted(ready - {root.pid})]
    finally:
        os.killpg(root.pid, signal.SIGKILL)
        root.stdout.close()
        root.wait()


@contextlib.contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """PIDs of processes that do nothing; then ended."""
    running = [subprocess.Popen(["sleep", "3600"]) for _ in range(count)]
    try:
        yield [process.pid for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
