"""What a fault in a loader process costs: each fault at seeded random moments, fork and forkserver.

    python -m benchmarks.recovery --seed 1 --moments 20 --contexts fork,forkserver [--faults "kill -9,…"] [--json]

A real `ami worker run` with its default limits works on one job after another (64 small images, batches of 4) from an
embedded server with a visibility time of 30 s and at most 2 deliveries; in each job it is struck once. Recovery is
the longest time without an answer from the strike to the end of the job. /dev/shm is the worker's own, of 256 MB.
Every image must be answered once and none as an error; the exit code is 1 where that fails, and each failure is
printed with what the worker said. Reproducible in which images and moments are drawn; what is met there is not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial, reduce
from operator import add
from pathlib import Path

from amidiag.soak.chaos.outcome import Outcome
from amidiag.soak.chaos.rounds import Cell, Moment, run
from amidiag.soak.chaos.strikes import STRIKES
from amidiag.soak.program import ProgramError

HEAD = (
    *(
        "fault",
        "start method",
        "strikes",
        "images",
        "answered once",
        "lost",
        "twice",
        "errors",
        "redelivered",
    ),
    *("new process", "recovery median", "p90", "max"),
)


def main() -> int:
    """Run all cells, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--contexts", default="fork,forkserver")
    parser.add_argument("--faults", default=",".join(STRIKES), help="of: %(default)s")
    parser.add_argument("--pinned", action="store_true", help="with an emulated accelerator")
    parser.add_argument("--loaders", type=int, default=1, help="loader processes")
    parser.add_argument("--keep", type=Path, help="directory for the workers' logs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    faults = [fault.strip() for fault in options.faults.split(",")]
    if unknown := [fault for fault in faults if fault not in STRIKES]:
        parser.error(f"no such fault: {unknown[0]}; there are: {', '.join(STRIKES)}")
    done: dict[tuple[str, Cell], list[Moment]] = {}
    with tempfile.TemporaryDirectory(prefix="amidiag-chaos-") as scratch:
        for fault in faults:
            for context in options.contexts.split(","):
                cell = Cell(context, options.pinned, options.loaders)
                directory = (options.keep or Path(scratch)) / f"{fault}-{context}".replace("/", "")
                try:
                    strikes = [fault] * options.moments
                    done[fault, cell] = run(cell, strikes, options.seed, directory, partial(show, cell))
                except (ProgramError, TimeoutError) as e:
                    print(f"{fault}, {cell.words}: {e}", file=sys.stderr)
                    done[fault, cell] = []
    if options.json:
        cells = [{"fault": f, **asdict(c), "moments": [asdict(m) for m in ms]} for (f, c), ms in done.items()]
        print(json.dumps(cells))
    else:
        print_table([row(fault, cell, moments) for (fault, cell), moments in done.items()])
    return 0 if all(ms and all(m.good for m in ms) for ms in done.values()) else 1


def show(cell: Cell, moment: Moment) -> None:
    """A line for each moment, and what the worker said of a failure."""
    became = moment.outcome
    recovery = "-" if moment.recovery_s is None else f"{moment.recovery_s:.2f} s"
    bad = "" if moment.good else f"  BAD: {became}"
    print(
        f"{time.strftime('%H:%M:%S')} {moment.fault}, {cell.words}, at {moment.at:.2f}: "
        f"{'struck' if moment.struck else 'moment did not come'}, recovery {recovery}, "
        f"redelivered {became.redelivered}, ends {list(moment.restarts)}{'  HUNG' if moment.hung else ''}{bad}",
        file=sys.stderr,
        flush=True,
    )
    for line in moment.log:
        print(f"        {line}", file=sys.stderr)


def row(fault: str, cell: Cell, moments: Sequence[Moment]) -> tuple[str, ...]:
    """The moments of one cell, in the columns of HEAD."""
    became = reduce(add, (m.outcome for m in moments), Outcome())
    recoveries = sorted(m.recovery_s for m in moments if m.recovery_s is not None)
    restarts = sum(len(m.restarts) for m in moments)
    hung = sum(m.hung for m in moments)
    seconds = ("-", "-", "-")
    if recoveries:
        p90 = recoveries[min(len(recoveries) - 1, round(0.9 * (len(recoveries) - 1)))]
        seconds = tuple(f"{s:.1f} s" for s in (statistics.median(recoveries), p90, recoveries[-1]))  # type: ignore[assignment]
    counts = (
        became.images,
        became.once,
        became.lost + became.open,
        became.twice,
        became.errors,
        became.redelivered,
    )
    struck = f"{sum(m.struck for m in moments)}{f', {hung} hung' if hung else ''}"
    return (fault, cell.words, struck, *map(str, counts), str(restarts), *seconds)


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """As Markdown."""
    for line in (HEAD, ("---",) * len(HEAD), *rows):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    sys.exit(main())
