"""What tracing costs the worker: its throughput and its CPU time with and without it, in paired runs.

    python benchmarks/traced_worker.py --pairs 5

Each run is the recipe `mixed-images`: the real worker against the embedded server, loader processes included,
from its start to its end. Images per second vary by a tenth and more from run to run on a shared machine; the CPU time
that the worker and its children take for an image varies less, and is what tracing can add to.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from dataclasses import replace
from typing import NamedTuple

from amidiag.soak.experiment import run
from amidiag.soak.recipe_file import load


class Cost(NamedTuple):
    """Of one run. `rate`: images per second, start-up left out. `cpu`: CPU seconds per image, all included."""

    rate: float
    cpu: float


def cost(seed: int, *, traced: bool, cycles: int) -> Cost:
    """Run the worker once."""
    recipe = load("mixed-images")
    recipe = replace(recipe, load=replace(recipe.load, cycles=cycles))
    before = _cpu_of_children()
    (arm,) = run(recipe, seed, None, lambda _: None, traced=traced).arms
    images = arm.outcome.answers.tasks
    return Cost(images / arm.outcome.seconds, (_cpu_of_children() - before) / images)


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def summary(name: str, ratios: list[float]) -> str:
    """The median and the ends."""
    return (
        f"{name}: median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}"
    )


def main() -> None:
    """Print the pairs and the median of their ratios."""
    parser = argparse.ArgumentParser(description="The worker's throughput and CPU time, bare and traced.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=2)
    options = parser.parse_args()
    rates, cpu = [], []
    for pair in range(options.pairs):
        # Whoever goes first may find the machine in another state.
        order = (False, True) if pair % 2 else (True, False)
        found = {traced: cost(pair + 1, traced=traced, cycles=options.cycles) for traced in order}
        bare, traced = found[False], found[True]
        rates.append(traced.rate / bare.rate)
        cpu.append(traced.cpu / bare.cpu)
        print(
            f"bare {bare.rate:6.2f} images/s, {1e3 * bare.cpu:6.1f} ms CPU/image; "
            f"traced {traced.rate:6.2f}, {1e3 * traced.cpu:6.1f}; ratios {rates[-1]:.3f}, {cpu[-1]:.3f}",
            flush=True,
        )
    print(summary("images per second", rates))
    print(summary("CPU time per image", cpu))


if __name__ == "__main__":
    main()
