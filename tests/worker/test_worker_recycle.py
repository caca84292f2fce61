"""Caps of FDs, memory, age and jobs: what is due when, and the pipe leak at `ulimit -n 128` from end to end."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from worker_rig import AMI, LIMIT_S, environment, job, traps

from amidiag.soak.antenna import AntennaServer
from worker.guard.budget import memory_left
from worker.guard.family import Family
from worker.guard.memory_cap import MemoryCap
from worker.guard.recycle import Recycler
from worker.guard.usage import own_usage
from worker.loop import Worker
from worker.settings import WorkerSettings, read

NOFILE = 128
# recipes/issue-145-active.toml, with two loader processes: four FDs are lost with each loader.
LEAKS = {
    "AMI_NUM_WORKERS": 2,
    "AMI_ANTENNA_API_BATCH_SIZE": 4,
    "AMI_ANTENNA_API_DATALOADER_LIFETIME": "job",
    "AMI_AVOID_TORCH_ATEXIT_LEAK": "false",
    "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": "true",
    "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS": "true",
    "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR": 2,
}


class Supervised:
    """A worker with the pipe leak, started again as a supervisor does, until it ends with anything but 75."""

    def __init__(self, server: AntennaServer, directory: Path, **settings: object) -> None:
        self.codes: list[int] = []
        self.said: list[str] = []
        faults = ["--arm", "emulated-accelerator", "--arm", "torch-atexit-per-loader"]
        self._command = [
            *(sys.executable, "-m", "amidiag.soak.faults.launcher", *faults),
            *("--report", str(directory / "faults.json"), "--", str(AMI), "worker", "run"),
        ]
        self._environment = environment(directory, server, **LEAKS | settings)
        self._directory = directory

    def run(self, *words: str) -> None:
        while not self.codes or self.codes[-1] == 75:
            process = subprocess.run(
                ["prlimit", f"--nofile={NOFILE}:{NOFILE}", *self._command, *words],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            self.codes.append(process.returncode)
            self.said.append(process.stderr)
            assert len(self.codes) < 6, process.stderr


def test_the_pipe_leak_is_recycled_before_emfile_and_nothing_is_lost(
    server: AntennaServer, tmp_path: Path
) -> None:
    # In the long ones the cap is passed between two batches, too.
    sizes = [2, 10, 3] * 9
    for size in sizes:
        server.add_job(job(*traps(size)))
    worker = Supervised(server, tmp_path)
    worker.run("--max-polls", "40")
    assert set(worker.codes[:-1]) == {75}
    assert worker.codes[-1] == 0
    for said in worker.said[:-1]:
        (why,) = (line for line in said.splitlines() if "drained, to be replaced" in line)
        assert re.search(r"10[3-9] of 128 FDs \(8\d %, at most 80 %\)", why), why
        assert why.endswith(": AMI_WORKER_MAX_FDS_PERCENT")
    assert not any("Too many open files" in said for said in worker.said)
    state = server.state()
    # Work in hand was finished each time: none had to be handed out again.
    assert (state.results, state.errors, state.redelivered, state.answered_twice) == (sum(sizes), 0, 0, 0)


def test_without_recycling_the_worker_ends_within_three_polls_of_the_first_emfile_and_says_so(
    server: AntennaServer, tmp_path: Path
) -> None:
    for _ in range(30):
        server.add_job(job(*traps(2)))
    worker = Supervised(server, tmp_path, AMI_WORKER_MAX_FDS_PERCENT=0, AMI_NUM_WORKERS=4)
    worker.run()
    assert worker.codes == [70]
    lines = worker.said[0].splitlines()
    (last,) = (line for line in lines if "worker.service: EMFILE: Too many open files" in line)
    assert "(3 in a row)" in last
    first = next(at for at, line in enumerate(lines) if "EMFILE" in line)
    visits = [line for line in lines[first:] if re.search(r"worker.loop: job \d+ \(.*images answered", line)]
    assert len(visits) <= 3
    state = server.state()
    assert (state.answered_twice, state.errors, state.lost) == (0, 0, 0)


# A child that holds 60 FDs of at most 64, or 100 MiB, until its input ends.
HOARDER = """
import os, resource, sys
what = sys.argv[1]
if what == "fds":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = [os.dup(0) for _ in range(64 - len(os.listdir("/proc/self/fd")) - 3)]
elif what == "private":
    held = bytearray(os.urandom(1)) * (100 << 20)
else:
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    os.posix_fallocate(fd, 0, 100 << 20)
print("ready", flush=True)
sys.stdin.read()
"""


def settings(**changes: object) -> WorkerSettings:
    # Every cap off, so that each is seen alone.
    off = dict.fromkeys(("AMI_WORKER_MAX_FDS_PERCENT", "AMI_WORKER_MAX_MEMORY"), "0")
    return read(Path("/dev/null"), off | {k: str(v) for k, v in changes.items()}).settings


@pytest.fixture
def hoarder() -> Iterator[Callable[[str], int]]:
    started: list[subprocess.Popen[str]] = []

    def start(what: str) -> int:
        command = [sys.executable, "-c", HOARDER, what]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        stdout = started[-1].stdout
        assert stdout is not None
        assert stdout.readline() == "ready\n"
        return started[-1].pid

    yield start
    for process in started:
        process.communicate()


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Lowers this process's soft FD limit to what is open and `more`."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def leave(more: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + more, before[1]))

    yield leave
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def soon(recycler: Recycler) -> str:
    """What is due, asked as a worker does: listings and looks at memory come half a second apart."""
    limit = time.monotonic() + LIMIT_S
    while (why := recycler.due(0)) is None:
        assert time.monotonic() < limit
        time.sleep(0.05)
    return why


def test_without_caps_nothing_is_ever_due() -> None:
    recycler = Recycler(settings())
    recycler.worked()
    assert recycler.due(10**9) is None
    assert recycler.why == "nothing"


def test_jobs_and_age_are_named_with_figures_and_setting() -> None:
    recycler = Recycler(settings(AMI_WORKER_MAX_JOBS=3))
    assert recycler.due(2) is None
    assert recycler.due(3) == "3 of 3 jobs: AMI_WORKER_MAX_JOBS"
    recycler = Recycler(settings(AMI_WORKER_MAX_AGE_S=1.5))
    assert recycler.due(0) is None
    time.sleep(1.5)
    assert re.fullmatch(r"\d+ of 1.5 s of age: AMI_WORKER_MAX_AGE_S", recycler.due(0) or "")


def test_a_loader_process_is_held_to_its_own_limit(hoarder: Callable[[str], int]) -> None:
    recycler = Recycler(settings(AMI_WORKER_MAX_FDS_PERCENT=90))
    assert recycler.due(0) is None
    pid = hoarder("fds")
    why = soon(recycler)
    assert re.match(rf"6\d of 64 FDs \(9\d %, at most 90 %\) of process {pid} \(python", why), why


def test_the_own_fds_against_the_own_limit(room: Callable[[int], None]) -> None:
    recycler = Recycler(settings(AMI_WORKER_MAX_FDS_PERCENT=60))
    held = [os.dup(0) for _ in range(30)]
    room(2)
    why = recycler.due(0)
    for fd in held:
        os.close(fd)
    assert why is not None
    assert re.match(r"(\d+) of (\d+) FDs \(\d+ %, at most 60 %\): AMI_WORKER_MAX_FDS_PERCENT", why), why


@pytest.mark.parametrize("what", ["private", "shared"])
def test_memory_of_the_tree_counts_mapped_or_only_held(hoarder: Callable[[str], int], what: str) -> None:
    now = own_usage(os.getpid())
    assert now is not None
    recycler = Recycler(settings(AMI_WORKER_MAX_MEMORY=now.total + (80 << 20)))
    assert recycler.due(0) is None
    hoarder(what)
    why = soon(recycler)
    assert re.match(r"[\d.]+ [MG]iB of at most [\d.]+ [MG]iB of memory: AMI_WORKER_MAX_MEMORY", why), why


def test_who_has_failed_for_want_of_fds_and_never_worked_is_not_replaced(room: Callable[[int], None]) -> None:
    """The next process would want them too, and take tasks each time: a loop that ends with 75 is dark."""
    recycler = Recycler(settings(AMI_WORKER_MAX_FDS_PERCENT=60))
    held = [os.dup(0) for _ in range(30)]
    room(2)
    recycler.failed()
    hopeless = recycler.due(0)
    recycler.worked()
    why = recycler.due(0)
    for fd in held:
        os.close(fd)
    assert hopeless is None
    assert why is not None
    assert "AMI_WORKER_MAX_FDS_PERCENT" in why


def test_a_share_of_memory_is_of_what_is_left() -> None:
    left = memory_left()
    assert left is not None
    cap = MemoryCap(settings(AMI_WORKER_MAX_MEMORY="50%"), Family())
    assert cap.bytes == pytest.approx(left.bytes / 2, rel=0.2)
    assert "(50% of the " in cap.why
    assert f"that the {left.by} leaves" in cap.why


def test_a_cap_that_is_passed_from_the_start_is_said_and_costs_a_batch_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recycler = Recycler(settings(AMI_WORKER_MAX_MEMORY="1M", AMI_WORKER_MAX_JOBS=7))
    (said,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("AMI_WORKER_MAX_MEMORY is passed before any work is done: ")
    time.sleep(0.6)
    assert recycler.due(0) is None
    # Of the other caps none waits.
    assert recycler.due(7) == "7 of 7 jobs: AMI_WORKER_MAX_JOBS"
    recycler.worked()
    why = soon(recycler)
    assert why.endswith("AMI_WORKER_MAX_MEMORY (after the first batch already: is it set too low?)")


def test_a_worker_whose_cap_is_too_low_answers_all_the_same(
    server: AntennaServer, worker: Callable[..., Worker]
) -> None:
    """A restart loop, but not one that answers nothing."""
    server.add_job(job(*traps(12)))
    lives = 0
    while server.state().waiting:
        lives += 1
        assert lives <= 12
        at_work = worker(server, AMI_WORKER_MAX_MEMORY="1M", AMI_ANTENNA_API_BATCH_SIZE=4)
        assert "AMI_WORKER_MAX_MEMORY" in (at_work.run(max_polls=3) or "AMI_WORKER_MAX_MEMORY")
    state = server.state()
    assert (state.results, state.redelivered, state.answered_twice) == (12, 0, 0)


def test_asking_is_cheap(hoarder: Callable[[str], int]) -> None:
    """With every cap on, between batches of 10 ms."""
    for _ in range(2):
        hoarder("private")
    recycler = Recycler(settings(AMI_WORKER_MAX_FDS_PERCENT=80, AMI_WORKER_MAX_MEMORY="90%"))
    before = time.thread_time()
    for _ in range(1000):
        recycler.due(0)
    # 0.02 ms; a look at all processes each time would be fifty times that.
    assert (time.thread_time() - before) / 1000 < 0.0005
