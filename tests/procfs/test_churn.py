"""A tree whose members map shared memory and end while they are read."""

import subprocess
import sys
from collections.abc import Iterator

import pytest

from amidiag.attach.status import StatusReader
from amidiag.procfs.observe import observe_tree

CHURN = """
import mmap, os, sys, time
keep = [mmap.mmap(-1, 65536) for _ in range(40)]
for m in keep: m[0] = 1
print("ready", flush=True)
while True:
    children = []
    for life in (0.002, 0.005, 0.02, 0.05, 0.1, 0.2):
        pid = os.fork()
        if pid == 0: time.sleep(life); os._exit(0)
        children.append(pid)
    for pid in children: os.waitpid(pid, 0)
"""


@pytest.fixture
def churning() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", CHURN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    process.kill()
    process.communicate()


@pytest.mark.root
def test_members_that_end_meanwhile_are_left_out(churning) -> None:
    status = StatusReader()
    seen: set[int] = set()
    for _ in range(200):
        observation = observe_tree(churning, status_reader=status)
        assert observation.processes[0].pid == churning
        seen.update(p.pid for p in observation.processes)
        held = observation.processes[0].shm.held
        assert held is not None and held >= 40 * 4096
    assert len(seen) > 5
