"""What a fault in a loader process costs: each fault at seeded random moments, fork and forkserver.

    python -m benchmarks.recovery --seed 1 --moments 20 --contexts fork,forkserver [--faults "kill -9,…"] [--json]

A real `ami worker run` with its default limits works on one job after another (64 small images, batches of 4) from an
embedded server with a visibility time of 30 s and at most 2 deliveries; in each job it is struck once. Recovery is
the longest time without an answer from the strike to the end of the job. /dev/shm is the worker's own, of 256 MB.

Every image must be answered once and none as an error; the exit code is 1 where that fails, and each failure is
printed with what the worker said. 2: a wrong option, 3: this host cannot do it, 130: Ctrl-C (the table is printed as
far as it had come). Progress goes to standard error, the table to standard output. Reproducible in which images and
moments are drawn; what is met there is not.
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
from functools import reduce
from operator import add
from pathlib import Path

from amidiag.soak.chaos.interruption import Interrupted, interruptible
from amidiag.soak.chaos.options import CONTEXTS, Options, at_least_one, new_directory, some_of
from amidiag.soak.chaos.outcome import Outcome
from amidiag.soak.chaos.private_shm import NoNamespaceError
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
# Of two start methods at the same time on two cores: until a new worker has done two jobs, and for each strike.
_START_S, _STRIKE_S = {"fork": 10.0}, {"fork": 3.7}
_OTHER_START_S, _OTHER_STRIKE_S = 15.0, 5.0


def main(words: Sequence[str] | None = None) -> int:
    """Run all cells, print the table."""
    options = _parser().parse_args(words)
    cells = [
        (fault, Cell(c, options.pinned, options.loaders))
        for fault in options.faults
        for c in options.contexts
    ]
    rounds = Rounds(options.moments * len(cells))
    print(announcement(options), file=sys.stderr, flush=True)
    code = 0
    try:
        with interruptible(), tempfile.TemporaryDirectory(prefix="amidiag-chaos-") as scratch:
            for fault, cell in cells:
                directory = (options.keep or Path(scratch)) / f"{fault}-{cell.context}".replace("/", "")
                rounds.run(fault, cell, options.moments, options.seed, directory)
    except Interrupted as e:
        print(f"interrupted by {e}; what there is so far:", file=sys.stderr)
        code = e.exit_code
    except NoNamespaceError as e:
        print(e, file=sys.stderr)
        return 3
    if options.json:
        print(json.dumps(rounds.as_json()))
    else:
        print_table([row(fault, cell, moments) for (fault, cell), moments in rounds.done.items()])
        print()
    print("\n".join(rounds.conclusion()), file=sys.stderr if options.json else sys.stdout)
    return code or (0 if rounds.good else 1)


def _parser() -> argparse.ArgumentParser:
    parser = Options("recovery", __doc__)
    parser.add_argument("--seed", type=int, default=1, help="images and moments follow from it")
    parser.add_argument("--moments", type=at_least_one, default=20, help="strikes per fault and start method")
    parser.add_argument(
        "--contexts",
        type=some_of(CONTEXTS),
        default="fork,forkserver",
        help=f"start methods of the loader processes, of: {','.join(CONTEXTS)}",
    )
    parser.add_argument("--faults", type=some_of(STRIKES), default=",".join(STRIKES), help="some of these")
    parser.add_argument("--pinned", action="store_true", help="with an emulated accelerator")
    parser.add_argument("--loaders", type=at_least_one, default=1, help="loader processes")
    parser.add_argument("--keep", type=new_directory, help="an empty directory for the workers' logs")
    parser.add_argument("--json", action="store_true", help="every moment as JSON instead of the table")
    return parser


def announcement(options: argparse.Namespace) -> str:
    """How many strikes there will be, and about how long that takes."""
    strikes = options.moments * len(options.faults) * len(options.contexts)
    seconds = len(options.faults) * sum(
        _START_S.get(c, _OTHER_START_S) + options.moments * _STRIKE_S.get(c, _OTHER_STRIKE_S)
        for c in options.contexts
    )
    return (
        f"{_counted(strikes, 'strike')}: {_counted(options.moments, 'moment')} × "
        f"{_counted(len(options.faults), 'fault')} × {' and '.join(options.contexts)}; "
        f"about {_counted(max(1, round(seconds / 60)), 'minute')} on two cores; Ctrl-C ends it with the table so far"
    )


class Rounds:
    """All strikes of all cells as they are made. `planned`: how many are to be."""

    def __init__(self, planned: int) -> None:
        self._planned = planned
        self.done: dict[tuple[str, Cell], list[Moment]] = {}
        self.ended_early: list[str] = []

    def run(self, fault: str, cell: Cell, moments: int, seed: int, directory: Path) -> None:
        """One cell; what comes of it is kept also where it ends by an exception."""
        kept = self.done[fault, cell] = []

        def made(moment: Moment) -> None:
            kept.append(moment)
            self._show(cell, moment)

        try:
            run(cell, [fault] * moments, seed, directory, made)
        except (ProgramError, TimeoutError) as e:
            self.ended_early.append(
                f"{fault}, {cell.words}: ended after {_counted(len(kept), 'strike')}: {e}"
            )
            print(self.ended_early[-1], file=sys.stderr)

    def _show(self, cell: Cell, moment: Moment) -> None:
        """A line for each moment, and what the worker said of a failure."""
        number = sum(len(moments) for moments in self.done.values())
        print(
            f"{time.strftime('%H:%M:%S')} {number}/{self._planned} {moment.fault}, {cell.words}: "
            f"{'' if moment.good else 'FAILED: '}{moment.words}",
            *(f"        {line}" for line in moment.log),
            sep="\n",
            file=sys.stderr,
            flush=True,
        )

    @property
    def good(self) -> bool:
        """Whether nothing failed; what was not tried has not."""
        return not self.ended_early and all(m.good for moments in self.done.values() for m in moments)

    def conclusion(self) -> list[str]:
        """What it comes to, in a sentence; each failure is a line more."""
        made = [(cell, m) for (_, cell), moments in self.done.items() for m in moments]
        struck = sum(moment.struck for _, moment in made)
        bad = [f"{m.fault}, {cell.words}: {m.words}" for cell, m in made if not m.good] + self.ended_early
        notes = []
        if len(made) > struck:
            notes.append(f"{_counted(len(made) - struck, 'moment')} did not come")
        if len(made) < self._planned:
            notes.append(f"{self._planned - len(made)} of {self._planned} not tried")
        fine = "every image answered once" if made else "nothing tried"
        noted = f" ({', '.join(notes)})" if notes else ""
        said = f"{_counted(struck, 'strike')}{noted}: "
        said += f"{_counted(len(bad), 'failure')}:" if bad else fine
        return [said, *bad]

    def as_json(self) -> list[dict[str, object]]:
        """All moments, by fault and cell."""
        return [
            {"fault": fault, **asdict(cell), "moments": [asdict(moment) for moment in moments]}
            for (fault, cell), moments in self.done.items()
        ]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


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
