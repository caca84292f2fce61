"""A worker's bad day, compressed: something happens every few seconds while it works on 400-image jobs.

    python -m benchmarks.day --seed 1 [--minutes 24] [--contexts fork,forkserver] [--groups loader,server,worker]

A real `ami worker run` with its default limits under a supervisor that starts it again, on an embedded server with a
visibility time of 30 s and at most 2 deliveries. Loader processes are killed, stopped, made to raise and to lose their
feeder thread or their shared memory; the server refuses, throttles, resets, stalls, restarts and loses its clock for a
minute; the worker itself is told to drain, stopped, and killed. The minutes are shared by the start methods.

A loss is explained by the queue's own rules where each of the deliveries of the image went to a worker that was
killed, stopped or told to drain meanwhile, was never heard of by the worker, or was cut short by the jump of the
queue's clock. Any other loss, an image answered twice with different answers, an intact image answered as an error,
an image still open at the end or results left in the spool makes the exit code 1. An answer whose acceptance a fault
kept from the worker can only be posted again: that is counted apart. The plan follows from the seed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import get_args

from amidiag.soak.chaos.day import Day, ends_in_words, plan, run
from amidiag.soak.chaos.events import Group
from amidiag.soak.program import ProgramError


def main() -> int:
    """Live through the day with each start method, print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=24.0, help="of all start methods together")
    parser.add_argument("--every", type=float, default=8.0, help="seconds between two events, on average")
    parser.add_argument("--images", type=int, default=400, help="per job")
    parser.add_argument("--contexts", default="fork,forkserver")
    parser.add_argument("--groups", default=",".join(get_args(Group)))
    parser.add_argument("--keep", type=Path, help="directory for the workers' logs")
    options = parser.parse_args()
    contexts = options.contexts.split(",")
    days: list[Day] = []
    with tempfile.TemporaryDirectory(prefix="amidiag-day-") as scratch:
        for context in contexts:
            planned = plan(
                options.seed,
                context,
                60 * options.minutes / len(contexts),
                groups=options.groups.split(","),
                every_s=options.every,
                images_per_job=options.images,
            )
            try:
                days.append(run(planned, (options.keep or Path(scratch)) / context, say))
            except ProgramError as e:
                print(f"{context}: {e}", file=sys.stderr)
                return 1
    print_happened(days)
    print_outcome(days)
    for day in days:
        for line in (*day.unexplained, *day.left, *day.total.said):
            print(f"{day.plan.context}: {line}")
    return 0 if all(day.good for day in days) else 1


def say(line: str) -> None:
    """What happens, as it happens."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def print_happened(days: list[Day]) -> None:
    """How often each event was met."""
    counts = [Counter(h.name for h in day.happened) for day in days]
    names = sorted({name for count in counts for name in count})
    print_table(
        ("event", *(day.plan.context for day in days)),
        [(name, *(str(count[name]) for count in counts)) for name in names],
    )


def print_outcome(days: list[Day]) -> None:
    """What became of the images and of the worker."""
    rows = {
        "jobs": [day.jobs for day in days],
        "images": [day.total.images for day in days],
        "answered": [day.total.once + day.total.twice for day in days],
        "lost": [day.total.lost - day.explained for day in days],
        "lost by the queue's own rules": [day.explained for day in days],
        "open at the end": [day.total.open for day in days],
        "answered twice, differently": [day.differing for day in days],
        "the same answer posted again": [day.total.twice - day.differing for day in days],
        "intact images answered as errors": [day.total.errors for day in days],
        "handed out again": [day.total.redelivered for day in days],
        "ends of the worker": [
            ", ".join(f"{n} × {how}" for how, n in sorted(ends_in_words(day.ends).items())) for day in days
        ],
        "longest time without an answer": [f"{day.longest_silence_s:.0f} s" for day in days],
        "length": [f"{day.seconds:.0f} s" for day in days],
    }
    print()
    print_table(
        ("", *(day.plan.context for day in days)),
        [(name, *map(str, values)) for name, values in rows.items()],
    )


def print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """As Markdown."""
    for line in (head, ("---",) * len(head), *rows):
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    sys.exit(main())
