"""What a job has cost, in one line: read of real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from worker_rig import Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer
from worker.guard.footprint import Footprint
from worker.guard.use import Use, use_of

# Does as it is told, line by line: what it opens and takes it keeps.
TARGET = """
import os, sys
kept = []
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""

Tell = Callable[[str], None]


@pytest.fixture
def target() -> Iterator[tuple[int, Tell]]:
    process = subprocess.Popen(
        [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def tell(line: str) -> None:
        stdin.write(line + "\n")
        stdin.flush()
        assert stdout.readline() == "done\n"

    tell("pass")
    yield process.pid, tell
    process.communicate()


def test_a_leak_climbs_job_over_job(target: tuple[int, Tell]) -> None:
    pid, tell = target
    footprint = Footprint(pid)
    steps = []
    for _ in range(3):
        tell("kept.append(os.pipe())")
        steps.append(footprint.after_job())
    assert "since the start: " in steps[0].line
    assert "since the job before: new high of FDs (3 jobs in a row)" in steps[2].line
    assert re.search(r"FDs \d+ \+2 \(pipe \d+ \+2,", steps[2].line)
    assert steps[2].fields["change"]["fds"] == 2
    assert steps[2].fields["new_highs_in_a_row"]["FDs"] == 3


def test_models_loaded_then_flat(target: tuple[int, Tell]) -> None:
    pid, tell = target
    footprint = Footprint(pid)
    tell("kept.append(bytearray(os.urandom(1)) * 64 * 2**20)")
    first = footprint.after_job()
    assert "new high of memory (1 job in a row)" in first.line
    assert 60 * 2**20 < first.fields["change"]["memory_tree"] < 70 * 2**20
    tell("kept.clear()")
    assert "no new high for 1 job" in footprint.after_job().line
    last = footprint.after_job()
    assert "no new high for 2 jobs" in last.line
    assert re.search(r"memory [\d.]+ MiB ±0 \(anonymous [\d.]+ MiB ±0, file", last.line)


def test_shared_memory_that_is_only_held_counts_once_for_the_tree(target: tuple[int, Tell]) -> None:
    pid, tell = target
    footprint = Footprint(pid)
    tell("fd = os.memfd_create('batch'); os.write(fd, b'x' * 2**20)")
    # The child holds the same segment, and a pipe of its own.
    tell("r, w = os.pipe(); child = os.fork() or (os.pipe(), os.read(r, 1), os._exit(0))")
    step = footprint.after_job()
    tell("os.write(w, b'x'); os.waitpid(child, 0)")
    assert step.fields["change"]["shm_held"] == 2**20
    assert step.fields["loaders"] == 1
    assert step.fields["change"]["loader_fds"] >= 6
    assert "shared memory held 1 MiB +1 MiB" in step.line


def test_the_descriptor_by_which_it_looks_is_not_counted() -> None:
    assert use_of(os.getpid()).fds == len(os.listdir("/proc/self/fd")) - 1


def test_at_emfile_it_says_what_can_be_said() -> None:
    code = (
        "import os, resource\n"
        "from worker.guard.footprint import Footprint\n"
        "footprint = Footprint(); resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError: pass\n"
        "print(footprint.after_job().line)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("FDs 64 +"), out
    assert "memory unknown" in out
    assert "new high of" not in out


def test_a_process_that_is_gone_uses_nothing_known() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert use_of(process.pid) == Use()


def test_a_worker_says_it_after_each_job(server: AntennaServer, start: Callable[..., Running]) -> None:
    for _ in range(3):
        server.add_job(job(*traps(3)))
    code, _, err = ended(start("run", "--max-polls", "3", server=server))
    assert code == 0
    lines = [line for line in err.splitlines() if "since the " in line]
    assert len(lines) == 3
    assert "since the start: new high of" in lines[0]
    for line in lines:
        assert re.search(r"job \d: FDs \d+ \S+ \(.*\), of \d loader and other processes \d+", line)
        assert re.search(r"memory [\d.]+ [GM]iB .*shared memory held", line)
