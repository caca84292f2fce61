"""What the tracer costs: per resource that is made, and per start of a program, beside what one would do otherwise.

    python benchmarks/tracer.py --runs 11

Prints, per sort of resource and depth of the stack, CPU time bare and traced (the hooks taken out and put in
again between runs), the median of the paired differences, and the ratio. On a machine that does other things
too, `more` grows with `bare`. All on one CPU: what a thread's start costs on several hangs on where the
scheduler puts the thread, by more than the tracer costs. Peers: a stack taken with
`traceback.extract_stack(limit=16)` for each pipe, and tracemalloc with 16 frames, asked for each pipe. Each
resource is closed at once, so the differences hold the share of the sweeps that find out what is closed.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["AMIDIAG_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="amidiag-benchmark-")

from amidiag.target import hooks
from amidiag.target.inherit import environment
from amidiag.target.tracer import Tracer, install

Make = Callable[[], object]
# More than two sweeps of a table that is full of what is closed.
_TURNS = 10_000
_LIMIT_US = 5.0


def pipe() -> None:
    """A pipe, both ends closed."""
    for fd in os.pipe():
        os.close(fd)


def pair() -> None:
    """Two connected sockets: two resources."""
    for one in socket.socketpair():
        one.close()


def file() -> None:
    """A file, opened by `open`."""
    open("/dev/null", "rb").close()  # noqa: PTH123 - this is what is measured


def descriptor() -> None:
    """A file, opened by `os.open`."""
    os.close(os.open("/dev/null", os.O_RDONLY))


def memfd() -> None:
    """A piece of shared memory."""
    os.close(os.memfd_create("benchmark"))


def eventfd() -> None:
    """An eventfd."""
    os.close(os.eventfd(0))


def thread() -> None:
    """A thread that ends at once."""
    one = threading.Thread(target=int)
    one.start()
    one.join()


def storage() -> Make | None:
    """A tensor shared by descriptor, if there is torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.multiprocessing.set_sharing_strategy("file_descriptor")
    return lambda: torch.UntypedStorage._new_shared(64)


# What is made, how many resources that is, and in how many turns.
SORTS: list[tuple[str, Make | None, int, int]] = [
    ("os.pipe", pipe, 1, _TURNS),
    ("socket.socketpair, each", pair, 2, _TURNS),
    ("open", file, 1, _TURNS),
    ("os.open", descriptor, 1, _TURNS),
    ("os.memfd_create", memfd, 1, _TURNS),
    ("os.eventfd", eventfd, 1, _TURNS),
    ("Thread.start", thread, 1, _TURNS // 5),
    ("torch shared storage", storage(), 1, _TURNS // 2),
]


def below(depth: int, function: Callable[..., float], *args: Any) -> float:
    """Call from a stack of so many frames, `below` and the caller's included."""
    # This one, the module's, `main`, the row's and the paired run's are there already.
    return below(depth - 1, function, *args) if depth > 0 else function(*args)


def burst(make: Make, turns: int) -> float:
    """Microseconds of CPU time per turn, of the thread that makes it."""
    begin = time.thread_time()
    for _ in range(turns):
        make()
    return (time.thread_time() - begin) / turns * 1e6


def paired(bare: Callable[[], float], other: Callable[[], float], runs: int) -> tuple[float, float, float]:
    """Medians over the runs: of the one, the other, and their differences."""
    pairs = [(bare(), other()) for _ in range(runs)]
    return (
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
        statistics.median(two - one for one, two in pairs),
    )


def in_hooks(tracer: Tracer, run: Callable[[], float]) -> float:
    """Once with the hooks in place."""
    hooks.install(tracer)
    try:
        return run()
    finally:
        hooks.uninstall()


def row(name: str, depth: str, figures: tuple[float, float, float], unit: str = "us") -> str:
    """One line of a table."""
    bare, other, more = figures
    return f"{name:<34}{depth:>7}{bare:11.2f}{other:11.2f}{more:+11.2f} {unit}{other / bare:8.2f}"


def resources(tracer: Tracer, runs: int) -> bool:
    """Print what each sort costs; whether all are within the limit."""
    within = True
    for name, make, count, turns in SORTS:
        if make is None:
            continue
        for frames in (10, 16):
            at = partial(below, frames - 6, burst, make, turns)
            at()
            figures = paired(at, partial(in_hooks, tracer, at), runs)
            bare, traced, more = (figure / count for figure in figures)
            print(row(name, str(frames), (bare, traced, more)), flush=True)
            within = within and more <= _LIMIT_US
    return within


def peers(runs: int) -> None:
    """Print what a stack for each pipe costs by other means."""
    turns = _TURNS // 10
    kept: dict[int, Any] = {}

    def by_traceback() -> None:
        ends = os.pipe()
        kept[ends[0]] = traceback.extract_stack(limit=16)
        os.close(ends[0])
        os.close(ends[1])

    def by_tracemalloc() -> None:
        ends = os.pipe()
        kept[ends[0]] = tracemalloc.get_object_traceback(ends)
        os.close(ends[0])
        os.close(ends[1])

    def allocating() -> float:
        tracemalloc.start(16)
        try:
            return below(10, burst, by_tracemalloc, turns)
        finally:
            tracemalloc.stop()

    bare = partial(below, 10, burst, pipe, turns)
    stacks = partial(below, 10, burst, by_traceback, turns)
    print(row("os.pipe, traceback.extract_stack", "16", paired(bare, stacks, runs)), flush=True)
    print(row("os.pipe, tracemalloc", "16", paired(bare, allocating, runs)), flush=True)


def start(words: list[str], env: dict[str, str]) -> float:
    """Milliseconds until a program that does nothing has ended."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words, "-c", "pass"], env=env, check=True)
    return (time.perf_counter() - begin) * 1e3


def starts(runs: int) -> None:
    """Print what the start of a program costs, its modules compiled as an installation has them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    traced = environment(env)
    start([], traced)
    bare = partial(start, [], env)
    print(row("python -c pass", "", paired(bare, partial(start, [], traced), 3 * runs), "ms"))
    other = partial(start, ["-X", "tracemalloc=16"], env)
    print(row("python -X tracemalloc=16 -c pass", "", paired(bare, other, 3 * runs), "ms"))


def footprint(tracer: Tracer) -> str:
    """What a table takes on the disk."""
    assert tracer.path is not None
    return f"table: {Path(tracer.path).stat().st_size / 1e6:.1f} MB, preallocated"


def main() -> None:
    """Parse, measure, print; exit code 1 where a resource costs more than 5 us."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=11, help="paired runs of each (default 11)")
    args = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tracer = install(children=False)
    if tracer.error is not None:
        sys.exit(f"tracing is off: {tracer.error}")
    hooks.uninstall()
    print(f"{'':<34}{'frames':>7}{'bare':>11}{'traced':>11}{'more':>11}{'ratio':>11}")
    within = resources(tracer, args.runs)
    print("peers")
    peers(args.runs)
    print("starts")
    starts(args.runs)
    print(footprint(tracer))
    tracer.uninstall()
    sys.exit(0 if within else 1)


if __name__ == "__main__":
    main()
