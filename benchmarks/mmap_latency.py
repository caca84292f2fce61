"""How long a target's own mmap(2) takes while it is watched: by our sampler, and by a poller of smaps_rollup.

Both hold its memory map's lock when they look; smaps_rollup walks every page under it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from paired import Row

from amidiag.procfs.identity import identify
from amidiag.procfs.sampler import ProcessSampler

_GIB = 1 << 30
_SECONDS = 6.0
_EVERY = 0.1
_TURNS = 3
# Answers each line on its standard input with the slowest mmap of so many seconds, and the median, in ms.
_TARGET = """
import mmap, statistics, sys, time
held = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
print("ready", flush=True)
for line in sys.stdin:
    took, end = [], time.monotonic() + float(line)
    while time.monotonic() < end:
        before = time.perf_counter_ns()
        mmap.mmap(-1, 4096).close()
        took.append(time.perf_counter_ns() - before)
        time.sleep(0.0005)
    took.sort()
    print(took[-1] / 1e6, took[int(len(took) * 0.99)] / 1e6, statistics.median(took) / 1e6, flush=True)
"""


def mmap_rows() -> Iterator[Row]:
    """The slowest mmap of the target, unwatched and under each watcher, the median of some turns."""
    size = 8 if psutil.virtual_memory().available > 12 * _GIB else 4
    with _target(size * _GIB) as target:
        watchers = {"nobody": _nothing, "sampler": _sampler(target.pid), "rollup": _rollup(target.pid)}
        slowest: dict[str, list[float]] = {name: [] for name in watchers}
        for _ in range(_TURNS):
            for name, look in watchers.items():
                slowest[name].append(_slowest(target, look))
    alone, ours, theirs = (statistics.median(slowest[name]) for name in watchers)
    what = f"slowest mmap of a target with {size} GiB, looked at 10 times a second"
    yield Row(f"{what}: nobody, `smaps_rollup`", alone, theirs, alone / theirs, None)
    yield Row(f"{what}: our sampler, `smaps_rollup`", ours, theirs, ours / theirs, None)


@contextmanager
def _target(size: int) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _TARGET, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as target:
        assert target.stdout is not None
        try:
            target.stdout.readline()
            yield target
        finally:
            target.kill()


def _slowest(target: subprocess.Popen[str], look: Callable[[], object]) -> float:
    """In ms."""
    assert target.stdin is not None
    assert target.stdout is not None
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(look, done))
    watcher.start()
    target.stdin.write(f"{_SECONDS}\n")
    target.stdin.flush()
    slowest = float(target.stdout.readline().split()[0])
    done.set()
    watcher.join()
    return slowest


def _watch(look: Callable[[], object], done: threading.Event) -> None:
    while not done.is_set():
        look()
        time.sleep(_EVERY)


def _nothing() -> None:
    """The target is left alone."""


def _sampler(pid: int) -> Callable[[], object]:
    return ProcessSampler(identify(pid)).sample


def _rollup(pid: int) -> Callable[[], object]:
    return Path(f"/proc/{pid}/smaps_rollup").read_bytes
