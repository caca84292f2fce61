"""The memory model against what the worker's loader really uses: predicted and measured peaks.

    python benchmarks/ingest_memory.py            about 4 minutes
    python benchmarks/ingest_memory.py --full     every cell of the grid that fits into this machine

Each cell is a process of its own (memory_cell.py) with the worker's loader, source, tuner and stager, fed with JPEGs
from a server on loopback, and looked at from outside every 10 ms (memory_watch.py). It is told to go on only when
the loader has loaded ahead all that it may, so that each round reaches its peak. A cell that never gets there is
marked, and counts as failed.

Exit code 1 where a prediction is more than 15 % off, or one of the bounds that are printed is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from image_server import Size, jpeg, serving
from memory_watch import Seen, Watch, settled

from worker.guard.memory_model import MIB, Case, Prediction, predict

HERE = Path(__file__).parent
SMALL, MIDDLE, LARGE = (640, 480), (2048, 1536), (4096, 3072)
TOLERANCE = 0.15
MOST_OF_THE_MACHINE = 0.6
LOADER = "AMI_ANTENNA_API_DATALOADER_"


@dataclass(frozen=True, slots=True)
class Setup:
    """One cell of the grid."""

    size: Size
    batch: int
    prefetch: int
    loaders: int = 1
    start_method: str = "forkserver"
    mode: str = ""
    pipeline: str = ""
    more: dict[str, str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many batches: so many that the tuner has made up its mind."""
        return 6 if "budget" in self.mode else 3

    def environment(self, staging: str) -> dict[str, str]:
        """What the process is started with: no tuning and no budget, unless the mode is one."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("AMI")}
        return clean | {
            "AMI_ANTENNA_API_AUTH_TOKEN": "none",
            "AMI_ANTENNA_API_BATCH_SIZE": str(self.batch),
            "AMI_NUM_WORKERS": str(self.loaders),
            LOADER + "PREFETCH_FACTOR": str(self.prefetch),
            LOADER + "MP_CONTEXT": self.start_method,
            LOADER + "PIN_MEMORY": "false",
            "AMI_VISIBILITY_TIMEOUT_S": "0",
            "AMI_MEMORY_BUDGET": self.mode.removeprefix("budget ") if "budget" in self.mode else "0",
            "AMI_AUTOTUNE": "true" if "budget" in self.mode else "false",
            "AMI_STAGING_DIR": staging if self.mode == "staging" else "",
            "OMP_WAIT_POLICY": "PASSIVE",
            **self.more,
        }


@dataclass(frozen=True, slots=True)
class Result:
    """What a cell came to."""

    setup: Setup
    predicted: Prediction
    peak: Seen
    settled: bool
    said: dict[str, Any]

    @property
    def error(self) -> float:
        """How far the prediction of the total is off, as a share of what was measured."""
        return self.predicted.total / self.peak.total - 1

    @property
    def good(self) -> bool:
        """Whether prediction and measurement agree."""
        return self.settled and abs(self.error) <= TOLERANCE


def measure(setup: Setup, origin: str, file_bytes: int) -> Result:
    """Run one cell."""
    with tempfile.TemporaryDirectory() as staging:
        command = [sys.executable, str(HERE / "memory_cell.py"), origin, *map(str, setup.size)]
        process = subprocess.Popen(
            [*command, *([setup.pipeline] if setup.pipeline else [])],
            env=setup.environment(staging),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            with Watch(process.pid) as watch:
                said, full = _rounds(process, watch, setup.rounds)
                peak = watch.peak
        finally:
            process.communicate()
    if process.returncode:
        sys.exit(f"{setup} ended with {process.returncode}")
    return Result(setup, predict(case_of(setup, file_bytes, said)), peak, full, said)


def _rounds(process: subprocess.Popen[str], watch: Watch, rounds: int) -> tuple[dict[str, Any], bool]:
    """Some batches, each kept until all that may be loaded ahead has been."""
    assert process.stdin is not None and process.stdout is not None
    said: dict[str, Any] = {}
    full = True
    for _ in range(rounds):
        line = process.stdout.readline()
        if not line:
            break
        said = json.loads(line)
        full &= settled(watch, said["depth"] * said["bytes"])
        process.stdin.write("\n")
        process.stdin.flush()
    return said, full


def case_of(setup: Setup, file_bytes: int, said: dict[str, Any] | None = None) -> Case:
    """The same in the words of the model. `said`: what the tuner made of it."""
    depth = said["depth"] if said else setup.prefetch * setup.loaders
    each = (setup.rounds + depth) * setup.batch * file_bytes // setup.loaders
    return Case(
        pixels=setup.size[0] * setup.size[1],
        file_bytes=file_bytes,
        batch=setup.batch,
        prefetch=setup.prefetch,
        loaders=setup.loaders,
        cache_bytes=min(int(setup.more.get("AMI_IMAGE_CACHE_MAX_BYTES", 64 * MIB)), each),
        at_once=8 if setup.pipeline else 0,
        start_method=setup.start_method,
        depth=depth,
        batch_bytes=said["batch_bytes"] if said else None,
    )


def grid(*, full: bool) -> list[Setup]:
    """The cells in which nothing but the plain settings is looked at."""
    if full:
        parts = itertools.product((SMALL, MIDDLE, LARGE), (1, 8, 24), (1, 2, 4, 16), (1, 2))
        return [Setup(*part) for part in parts]
    return [
        Setup(SMALL, 8, 4),
        Setup(SMALL, 24, 16),
        Setup(MIDDLE, 1, 1),
        Setup(MIDDLE, 8, 4, 2),
        Setup(MIDDLE, 24, 2),
        Setup(LARGE, 1, 4),
        Setup(LARGE, 8, 1),
        Setup(LARGE, 8, 4),
        Setup(LARGE, 8, 4, start_method="fork"),
        Setup(LARGE, 8, 4, start_method="spawn"),
        Setup(LARGE, 8, 2, 2),
        Setup(LARGE, 8, 4, pipeline="moth_binary"),
    ]


def bounded(*, full: bool) -> list[Setup]:
    """The cells in which memory must not depend on prefetch."""
    prefetches = (1, 2, 4, 8, 16) if full else (1, 4, 16)
    cells = [Setup(LARGE, 8, p, mode=mode) for mode in ("staging", "budget 2G") for p in prefetches]
    return [*cells, Setup(LARGE, 24, 4, mode="budget 2G", pipeline="moth_binary")]


def fits(setup: Setup, files: dict[Size, int]) -> bool:
    """Whether a cell may be run on this machine."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return predict(case_of(setup, files[setup.size])).total < MOST_OF_THE_MACHINE * available


HEAD = (
    "| image | batch | prefetch | loaders | start | mode | /dev/shm predicted | measured | loaders predicted | "
    "measured | total predicted | measured | error |"
)


def row(result: Result) -> str:
    """A line of the table, MiB."""
    setup, predicted, peak = result.setup, result.predicted, result.peak
    pairs = (
        (predicted.dev_shm, peak.dev_shm),
        (predicted.loaders, peak.loaders),
        (predicted.total, peak.total),
    )
    figures = " | ".join(f"{mib(a)} | {mib(b)}" for a, b in pairs)
    mode = " ".join(filter(None, (setup.mode, setup.pipeline))) or "plain"
    mark = "" if result.settled else " (never full)"
    return (
        f"| {setup.size[0]}×{setup.size[1]} | {setup.batch} | {setup.prefetch} | {setup.loaders} | "
        f"{setup.start_method} | {mode} | {figures} | {result.error:+.0%}{mark} |"
    )


def mib(size: int) -> str:
    """Whole mebibytes."""
    return f"{size / MIB:.0f}"


def table(setups: Iterable[Setup], origin: str, files: dict[Size, int]) -> list[Result]:
    """Run cells and print a line for each."""
    print(f"\n{HEAD}\n|{'---|' * HEAD.count(' |')}", flush=True)
    results = []
    for setup in setups:
        if not fits(setup, files):
            print(f"| {setup.size} {setup.batch} {setup.prefetch} {setup.loaders} | does not fit here |")
            continue
        results.append(measure(setup, origin, files[setup.size]))
        print(row(results[-1]), flush=True)
    return results


def bounds(plain: Sequence[Result], held: Sequence[Result]) -> list[tuple[bool, str]]:
    """What issue #138 and the budget ask for, each with whether it is kept."""
    found = []
    wanted = Setup(LARGE, 8, 4)
    for result in plain:
        if result.setup == wanted:
            shm, total = result.peak.dev_shm, result.peak.total
            found.append((shm <= 1440 * MIB, f"12 MP, batch 8, prefetch 4: /dev/shm {mib(shm)} ≤ 1440 MiB"))
            found.append((total <= 4388 * MIB, f"12 MP, batch 8, prefetch 4: total {mib(total)} ≤ 4388 MiB"))
    for mode in dict.fromkeys(r.setup.mode for r in held):
        totals = [r.peak.total for r in held if r.setup.mode == mode]
        low, high = min(totals), max(totals)
        said = f"{mode}: prefetch 1 to 16 take {mib(low)} to {mib(high)} MiB"
        if mode == "staging":
            found.append((high <= 1.1 * low, f"{said}, within 10 %"))
        else:
            found.append((high <= 2048 * MIB, f"{said}, none above the budget"))
    return found


def pinning(plain: Sequence[Result]) -> None:
    """What page-locked copies would take."""
    print("\nPinned or not: not measured here, it takes a GPU. The model says (12 MP, batch 8, MiB):\n")
    print("| prefetch | total unpinned | pinned | of that page-locked |\n|---|---|---|---|")
    case = next((case_of(r.setup, 3 * MIB) for r in plain if r.setup.size == LARGE), None)
    for prefetch in (1, 2, 4) if case is not None else ():
        unpinned = predict(replace(case, batch=8, prefetch=prefetch, loaders=1, depth=None))
        pinned = predict(replace(case, batch=8, prefetch=prefetch, loaders=1, depth=None, pinned=True))
        print(f"| {prefetch} | {mib(unpinned.total)} | {mib(pinned.total)} | {mib(pinned.pinned)} |")


def main() -> None:
    """Print the tables; exit code 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description="Predicted and measured peaks of the worker's ingest.")
    parser.add_argument("--full", action="store_true", help="every cell of the grid that fits here")
    options = parser.parse_args()
    files = {size: len(jpeg(size, 0)) for size in (SMALL, MIDDLE, LARGE)}
    print("Files: " + ", ".join(f"{w}×{h} {n / MIB:.2f} MiB" for (w, h), n in files.items()))
    with serving(list(files)) as origin:
        plain = table(grid(full=options.full), origin, files)
        held = table(bounded(full=options.full), origin, files)
    worst = max((*plain, *held), key=lambda r: abs(r.error))
    checks = bounds(plain, held)
    checks.append((all(r.good for r in (*plain, *held)), f"largest error {worst.error:+.1%}, wanted ≤ 15 %"))
    pinning(plain)
    print()
    for kept, text in checks:
        print(f"- {'kept' if kept else 'NOT KEPT'}: {text}")
    sys.exit(0 if all(kept for kept, _ in checks) else 1)


if __name__ == "__main__":
    main()
