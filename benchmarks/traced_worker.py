"""What tracing costs the worker: its throughput and its CPU time with and without it, in paired runs.

    python benchmarks/traced_worker.py --pairs 5

Each run is the recipe `mixed-images`: the real worker against the embedded server, loader processes included,
from its start to its end. Images per second vary by a tenth from run to run on a shared machine, CPU time by
some per cent: too much for a hundredth to be seen in a few pairs. So what the tracer did is counted too, in its
tables: resources noted and Python processes traced, times what each costs at most (`benchmarks/tracer.py`).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import struct
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from amidiag.soak.experiment import run
from amidiag.soak.recipe_file import load
from amidiag.target import trace_layout as layout

# What `benchmarks/tracer.py` finds, rounded up: seconds per resource, and per start of a Python program.
_PER_RESOURCE, _PER_START = 5e-6, 15e-3
_LIMIT = 0.01


class Cost(NamedTuple):
    """Of one run. `rate`: images per second, start-up left out. `cpu`: CPU seconds per image, all included.
    `noted`: resources that were noted, per image. `starts`: Python programs traced, forked ones left out.
    `share`: what those cost at most, of all CPU seconds."""

    rate: float
    cpu: float
    noted: float
    starts: int
    share: float


def cost(seed: int, *, traced: bool, cycles: int) -> Cost:
    """Run the worker once."""
    recipe = load("mixed-images")
    recipe = replace(recipe, load=replace(recipe.load, cycles=cycles))
    # By table; those of processes that end are removed, so they are read again and again.
    noted: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="amidiag-benchmark-") as directory:

        def count(_: object) -> None:
            for path in Path(directory).rglob("*" + layout.SUFFIX):
                noted[path.name] = max(noted.get(path.name, 0), _noted(path))

        before = _cpu_of_children()
        (arm,) = run(recipe, seed, Path(directory), count, traced=traced).arms
        cpu = _cpu_of_children() - before
    images = arm.outcome.answers.tasks
    total = sum(noted.values())
    share = (total * _PER_RESOURCE + len(noted) * _PER_START) / cpu
    return Cost(images / arm.outcome.seconds, cpu / images, total / images, len(noted), share)


def _noted(path: Path) -> int:
    """How many resources a process has noted, with the children that it forked: sequence numbers count them."""
    data = path.read_bytes()
    words = struct.unpack_from("@16Q", data)
    first, other = (
        layout.Geometry(*words[at : at + 4]) for at in (layout.F_FIRST_GEOMETRY, layout.F_OTHER_GEOMETRY)
    )
    total = 0
    for number in range(words[layout.F_REGIONS]):
        at = layout.region_at(number, first, other)
        used = struct.unpack_from("@19Q", data, at)[layout.R_SLOTS]
        slots = at + (first if number == 0 else other).slots_at
        end = slots + used * layout.SLOT_SIZE
        total += max((slot[0] for slot in layout.SLOT.iter_unpack(data[slots:end])), default=0)
    return total


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summary(name: str, ratios: list[float]) -> str:
    """The median and the ends."""
    return (
        f"{name}: median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )


def main() -> None:
    """Print the pairs, the medians of their ratios, and the bound; exit code 1 where that is above 1 %."""
    parser = argparse.ArgumentParser(description="The worker's throughput and CPU time, bare and traced.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=2)
    options = parser.parse_args()
    rates, cpu, shares = [], [], []
    for pair in range(options.pairs):
        # Whoever goes first may find the machine in another state.
        order = (False, True) if pair % 2 else (True, False)
        found = {traced: cost(pair + 1, traced=traced, cycles=options.cycles) for traced in order}
        bare, traced = found[False], found[True]
        rates.append(traced.rate / bare.rate)
        cpu.append(traced.cpu / bare.cpu)
        shares.append(traced.share)
        print(
            f"bare {bare.rate:6.2f} images/s, {1e3 * bare.cpu:6.1f} ms CPU/image; "
            f"traced {traced.rate:6.2f}, {1e3 * traced.cpu:6.1f}; ratios {rates[-1]:.3f}, {cpu[-1]:.3f}; "
            f"{traced.noted:.1f} resources/image, {traced.starts} programs: at most {traced.share:.2%}",
            flush=True,
        )
    print(summary("images per second", rates))
    print(summary("CPU time per image", cpu))
    print(f"by count: at most {max(shares):.2%} of the CPU time")
    sys.exit(0 if max(shares) <= _LIMIT else 1)


if __name__ == "__main__":
    main()
