"""How much of what Python code opens is attributed to the line that opened it, and how fast it is told.

    python benchmarks/attribution.py            the grid: loader processes, start methods, sharing strategies
    python benchmarks/attribution.py --states   seconds for `amidiag trace PID --json`, whole processes

The truth of the grid is a second method (tests/attribution/witness/fd_witness.py) that looks at every call
and return what is open, and knows nothing of the tracer's hooks. Counted are the FDs and mappings of pipes,
sockets, eventfds and shared memory (semaphores too) in all Python processes of the tree, at quiet points.
`--thorough` has the witness look while torch is imported, too. `--list` prints all that is wrong or not seen.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "attribution"))

from judging import Judgement
from open_things import wait_until_quiet
from runs import Run, started

METHODS = ("fork", "forkserver", "spawn")
STRATEGIES = ("file_descriptor", "file_system")
PROCESSES = (1, 2, 4)
AMIDIAG = str(Path(sys.executable).parent / "amidiag")
STATES = {
    "waiting": "waiting in a read (to compare with)",
    "at_limit": "at EMFILE, 19,996 pipe ends",
    "loader": "hung: DataLoader's queue, loader process stopped",
    "queue": "hung: Queue.get() for ever",
    "gil": "GIL held in C",
    "stopped": "SIGSTOP",
    "killed": "after SIGKILL, 375 open",
    "killed at_limit": "after SIGKILL at EMFILE",
}

Cell = tuple[str, ...]


class Table:
    """Sums over the quiet points of a run, a line a run."""

    COLUMNS = ("open", "Python", "right", "near", "wrong", "not seen", "C code", "lost")

    def __init__(self, cells: Cell) -> None:
        self._cells = cells
        self._sums: Counter[str] = Counter()
        print(f"{'  '.join(cells)}  {'  '.join(f'{c:>8}' for c in self.COLUMNS)}    share  own line")

    def line(self, cells: Cell, judgements: list[Judgement]) -> None:
        """Print one run, and add it up."""
        sums: Counter[str] = Counter()
        for judgement in judgements:
            words = judgement.words()
            counted = [verdict for verdict in judgement.verdicts if verdict.counted]
            sums += Counter(
                {
                    "open": len(counted),
                    "Python": sum(words.values()),
                    "right": words["right"],
                    "near": words["other line of the library"],
                    "wrong": words["wrong"] + len(judgement.of("not Python, attributed")),
                    "not seen": words["not seen"],
                    "C code": sum(not verdict.by_python for verdict in counted),
                    "lost": len(judgement.of("vanished")) + len(judgement.invented),
                    "own wrong": judgement.user_lines["wrong"],
                    "own right": judgement.user_lines["right"],
                }
            )
        self._sums += sums
        self._print(cells, sums)

    def total(self) -> None:
        """All runs together."""
        self._print(("all", *("",) * (len(self._cells) - 1)), self._sums)

    def _print(self, cells: Cell, sums: Counter[str]) -> None:
        named = "  ".join(f"{text:<{len(head)}}" for text, head in zip(cells, self._cells, strict=True))
        numbers = "  ".join(f"{sums[column]:8}" for column in self.COLUMNS)
        share = (sums["right"] + sums["near"]) / max(1, sums["Python"])
        own = f"{sums['own right']} right, {sums['own wrong']} wrong"
        print(f"{named}  {numbers}  {share:7.2%}  {own}", flush=True)


def judged(name: str, points: int, *arguments: object) -> list[Judgement]:
    """Run a program of tests/attribution/programs to its end, judged at each of its quiet points."""
    found = []
    with tempfile.TemporaryDirectory() as directory, started(Path(directory), name, *arguments) as run:
        for _ in range(points):
            if not run.word():
                sys.exit(Path(directory, "errors.txt").read_text())
            found.append(run.judge())
            run.go_on()
    for judgement in found:
        if judgement.witness_errors:
            sys.exit("\n".join(judgement.witness_errors))
    return found


def grid(listing: bool) -> None:
    """DataLoader over every way to start and to share, then a program that opens things in every way."""
    table = Table(("method    ", "strategy       ", "loaders"))
    lists: list[Judgement] = []
    for method in METHODS:
        for strategy in STRATEGIES:
            for processes in PROCESSES:
                found = judged("loading", 3, method, strategy, processes)
                table.line((method, strategy, str(processes)), found)
                lists += found
    table.total()
    print()
    table = Table(("method    ", "every way"))
    for method in METHODS:
        found = judged("everything", 2, method)
        table.line((method, ""), found)
        lists += found
    table.total()
    if listing:
        for judgement in lists:
            for verdict in judgement.of("wrong", "not Python, attributed", "not seen", "vanished"):
                if verdict.counted:
                    print(verdict)


def seconds(directory: str, pid: int) -> float:
    """Of one whole `amidiag trace`."""
    environment = {**os.environ, "AMIDIAG_RUNTIME_DIR": f"{directory}/run"}
    began = time.perf_counter()
    done = subprocess.run(
        [AMIDIAG, "trace", str(pid), "--json"], env=environment, capture_output=True, check=True
    )
    took = time.perf_counter() - began
    if not json.loads(done.stdout)["data"]["rows"]:
        sys.exit(f"{pid}: nothing was attributed")
    return took


def stuck(directory: str, state: str) -> Iterator[Run]:
    """A program in this state."""
    killed, _, rest = state.partition(" ")
    name = (rest or "waiting") if killed == "killed" else state
    with started(Path(directory), "stuck", name, witness=False) as run:
        run.word()
        wait_until_quiet(run.pid)
        if killed == "killed":
            os.kill(run.pid, signal.SIGKILL)
            run.process.wait()
        yield run


def states(repeats: int) -> None:
    """How long the answer takes in each state."""
    print(f"{'state':<50}  median     min     max   s, {repeats} runs of `amidiag trace PID --json`")
    for state, words in STATES.items():
        with tempfile.TemporaryDirectory() as directory:
            for run in stuck(directory, state):
                took = [seconds(directory, run.pid) for _ in range(repeats)]
        print(f"{words:<50}  {statistics.median(took):6.3f}  {min(took):6.3f}  {max(took):6.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", action="store_true")
    parser.add_argument("--thorough", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    if options.thorough:
        os.environ["ATTRIBUTION_THOROUGH"] = "1"
    if options.states:
        states(options.repeats)
    else:
        grid(options.list)


if __name__ == "__main__":
    main()
