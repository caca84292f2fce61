"""The memory budget against a real cgroup, and what a tree of real processes uses."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amidiag.procfs.errors import ProcessGone
from worker.guard.budget import Budget, tree_usage
from worker.guard.usage import own_usage
from worker.guard.words import size_in_words
from worker.settings import WorkerSettings, read

MIB = 1 << 20
V1 = Path("/sys/fs/cgroup/memory")

# A parent with a child. Each touches private memory; both hold one segment that neither maps.
TREE = """
import os, sys, tempfile
MIB = 1 << 20
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
os.posix_fallocate(fd, 0, 24 * MIB)
read, write = os.pipe()
if os.fork() == 0:
    mine = bytearray(os.urandom(1)) * (32 * MIB)
    os.write(write, b"x")
    sys.stdin.read()
    os._exit(0)
mine = bytearray(os.urandom(1)) * (64 * MIB)
os.read(read, 1)
print("ready", flush=True)
sys.stdin.read()
"""

# Prints the budget from within the cgroup whose path is given, after reading a file through its page cache.
INSIDE = """
import os, sys
from pathlib import Path
Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
Path(sys.argv[2]).write_bytes(os.urandom(1 << 20) * 96)
os.sync()
from worker.guard.budget import Budget
from worker.settings import read
budget = Budget.of(read(Path("/dev/null"), {"AMI_MEMORY_BUDGET": "50%"}).settings)
print(budget.bytes)
print(budget.why)
"""


def settings(**changes: object) -> WorkerSettings:
    return read(Path("/dev/null"), {k: str(v) for k, v in changes.items()}).settings


@pytest.fixture
def tree() -> Iterator[int]:
    process = subprocess.Popen(
        [sys.executable, "-c", TREE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process.pid
    process.communicate()


@pytest.fixture
def cgroup() -> Iterator[Callable[[int], Path]]:
    """Makes a real memory cgroup of version 1 with a limit in bytes."""
    made: list[Path] = []

    def make(limit: int) -> Path:
        made.append(V1 / f"amidiag-{uuid.uuid4().hex[:8]}")
        made[-1].mkdir()
        (made[-1] / "memory.limit_in_bytes").write_text(str(limit))
        return made[-1]

    yield make
    for path in made:
        path.rmdir()


def test_a_segment_that_two_hold_and_nobody_maps_counts_once_and_private_memory_of_both(tree: int) -> None:
    usage = tree_usage(tree)
    assert usage.shared == 24 * MIB
    # The two interpreters themselves come on top.
    assert 96 * MIB <= usage.anonymous < 160 * MIB
    assert usage.total == usage.anonymous + usage.shared


def test_a_process_that_has_ended_uses_nothing_that_could_be_told() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(ProcessGone):
        tree_usage(process.pid)
    assert own_usage(process.pid) is None


def test_a_share_is_of_what_is_left_and_is_divided_by_the_instances() -> None:
    whole, half = Budget.of(settings()), Budget.of(settings(), instances=2)
    assert whole.bytes is not None
    assert half.bytes is not None
    assert whole.why.startswith("memory budget ")
    assert "70% of the" in whole.why
    # Other programs take and give memory between the two.
    assert half.bytes == pytest.approx(whole.bytes / 2, rel=0.2)
    assert "each of 2 instances" in half.why


def test_a_share_follows_the_share() -> None:
    small, large = (Budget.of(settings(AMI_MEMORY_BUDGET=share)).bytes for share in ("10%", "80%"))
    assert small is not None
    assert large is not None
    assert large == pytest.approx(8 * small, rel=0.2)


def test_a_size_is_as_it_is_set_for_each_instance() -> None:
    assert Budget.of(settings(AMI_MEMORY_BUDGET="1.5G"), instances=3).bytes == 1536 * MIB


def test_a_size_beyond_what_there_is_is_taken_and_said() -> None:
    budget = Budget.of(settings(AMI_MEMORY_BUDGET="900T"))
    assert budget.bytes == 900 * 1024**4
    assert "more than the" in budget.why


@pytest.mark.parametrize("none", ["0", "0%", "0G"])
def test_nothing_is_no_budget(none: str) -> None:
    budget = Budget.of(settings(AMI_MEMORY_BUDGET=none))
    assert budget.bytes is None
    assert f"AMI_MEMORY_BUDGET={none}" in budget.why


def test_the_room_of_dev_shm_is_what_the_kernel_says() -> None:
    room = Budget.of(settings()).shm_bytes
    answer = os.statvfs("/dev/shm")
    assert room is not None
    assert room == pytest.approx(answer.f_bfree * answer.f_frsize, rel=0.2)


@pytest.mark.root
@pytest.mark.skipif(not os.access(V1 / "cgroup.procs", os.W_OK), reason="no memory cgroup can be made here")
def test_a_cgroup_binds_and_its_page_cache_counts_as_left(
    cgroup: Callable[[int], Path], tmp_path: Path
) -> None:
    limit = 256 * MIB
    program = [sys.executable, "-c", INSIDE, str(cgroup(limit)), str(tmp_path / "read")]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60)
    amount, why = done.stdout.splitlines()
    assert "that the cgroup leaves" in why
    # With the 96 MiB that the file takes in the page cache counted as used it would be below 80 MiB.
    assert 100 * MIB < int(amount) <= limit // 2


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (36 * MIB, "36 MiB"),
        (1024 * MIB, "1 GiB"),
        (1536 * MIB, "1.5 GiB"),
    ],
)
def test_sizes_are_said_shortly(size: int, words: str) -> None:
    assert size_in_words(size) == words
