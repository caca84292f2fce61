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

Exit code 2: a wrong option, 3: this host cannot do it, 130: Ctrl-C (the tables are printed as far as it had come).
Progress goes to standard error, the tables to standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from amidiag.soak.chaos.day import Day, Plan, ends_in_words, plan, run
from amidiag.soak.chaos.events import Group
from amidiag.soak.chaos.interruption import Interrupted, interruptible
from amidiag.soak.chaos.options import (
    CONTEXTS,
    Options,
    at_least_one,
    more_than_nothing,
    new_directory,
    some_of,
)
from amidiag.soak.chaos.private_shm import NoNamespaceError
from amidiag.soak.program import ProgramError

_TELLING = ("WARNING", "ERROR", "CRITICAL", "rror:")
_MOST_LINES = 60


def main(words: Sequence[str] | None = None) -> int:
    """Live through the day with each start method, print the tables."""
    options = _parser().parse_args(words)
    plans = [
        plan(
            options.seed,
            context,
            60 * options.minutes / len(options.contexts),
            groups=options.groups,
            every_s=options.every,
            images_per_job=options.images,
        )
        for context in options.contexts
    ]
    print(announcement(plans), file=sys.stderr, flush=True)
    days: list[Day] = []
    code = 0
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="amidiag-day-") as scratch:
            for planned in plans:
                days.append(Day(planned))
                run(planned, (options.keep or Path(scratch)) / planned.context, say, days[-1])
    except Interrupted as e:
        print(f"interrupted by {e}; what there is so far:", file=sys.stderr)
        code = e.exit_code
    except ProgramError as e:
        print(f"{days[-1].plan.context}: {e}; what there is so far:", file=sys.stderr)
        code = 1
    except NoNamespaceError as e:
        print(e, file=sys.stderr)
        return 3
    if options.json:
        print(json.dumps([as_json(day) for day in days]))
    else:
        print_happened(days)
        print_outcome(days)
        print()
    print("\n".join(conclusion(days, whole=not code)), file=sys.stderr if options.json else sys.stdout)
    for day in days:
        for line in [line for line in day.log if any(word in line for word in _TELLING)][-_MOST_LINES:]:
            print(f"        {day.plan.context}: {line}", file=sys.stderr)
    return code or (0 if all(day.good for day in days) else 1)


def _parser() -> argparse.ArgumentParser:
    parser = Options("day", __doc__)
    parser.add_argument("--seed", type=int, default=1, help="images and events follow from it")
    parser.add_argument(
        "--minutes", type=more_than_nothing, default=24.0, help="of all start methods together"
    )
    parser.add_argument(
        "--every", type=more_than_nothing, default=8.0, help="seconds between two events, on average"
    )
    parser.add_argument("--images", type=at_least_one, default=400, help="per job")
    parser.add_argument(
        "--contexts",
        type=some_of(CONTEXTS),
        default="fork,forkserver",
        help=f"start methods of the loader processes, of: {','.join(CONTEXTS)}",
    )
    groups = get_args(Group)
    parser.add_argument("--groups", type=some_of(groups), default=",".join(groups), help="to what it happens")
    parser.add_argument("--keep", type=new_directory, help="an empty directory for the workers' logs")
    parser.add_argument(
        "--json", action="store_true", help="events and outcome as JSON instead of the tables"
    )
    return parser


def announcement(plans: Sequence[Plan]) -> str:
    """What will happen, and for how long."""
    days = ", then ".join(
        f"{len(p.events)} events in {p.seconds / 60:.3g} min with {p.context}" for p in plans
    )
    return f"{days}; and what is under way then is waited for, minutes at most; Ctrl-C ends it with the tables so far"


def say(line: str) -> None:
    """What happens, as it happens."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def conclusion(days: Sequence[Day], *, whole: bool) -> list[str]:
    """What it comes to, in a sentence for each start method; what failed is a line more. `whole`: not ended early."""
    lines = []
    for day in days:
        # Where it was ended early there is work in hand.
        problems = [*day.problems, *day.left] if whole else [p for p in day.problems if "still open" not in p]
        said = f"{day.plan.context}: {len(day.happened)} events, {day.total.images} images: "
        if problems:
            lines += [f"{said}failed:"]
            lines += [f"{day.plan.context}: {line}" for line in (*problems, *day.unexplained)]
        elif whole:
            became = "every image answered"
            if day.explained:
                became = f"{day.explained} lost by the queue's own rules, every other image answered"
            lines.append(f"{said}{became}, nothing left behind")
        else:
            lines.append(f"{said}nothing lost so far, {day.total.open} still open")
    return lines


def as_json(day: Day) -> dict[str, Any]:
    """All there is of it but the log."""
    return {
        "plan": asdict(day.plan),
        "happened": [asdict(happened) for happened in day.happened],
        "missed": dict(day.missed),
        "outcome": asdict(day.total),
        "good": day.good,
        **{
            name: getattr(day, name)
            for name in (
                *("jobs", "differing", "explained", "problems", "unexplained", "left", "ends"),
                *("longest_silence_s", "seconds"),
            )
        },
    }


def print_happened(days: Sequence[Day]) -> None:
    """How often each event was met."""
    counts = [Counter(h.name for h in day.happened) for day in days]
    names = sorted({name for count in counts for name in count})
    print_table(
        ("event", *(day.plan.context for day in days)),
        [(name, *(str(count[name]) for count in counts)) for name in names],
    )


def print_outcome(days: Sequence[Day]) -> None:
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
