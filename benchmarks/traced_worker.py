"""What tracing costs the worker: images per second with and without it, in paired runs.

    python benchmarks/traced_worker.py --pairs 5

Each run is the recipe `mixed-images`: the real worker against the embedded server, loader processes included.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

from amidiag.soak.experiment import run
from amidiag.soak.recipe_file import load


def images_per_second(seed: int, *, traced: bool, cycles: int) -> float:
    """Of one run, start-up left out."""
    recipe = load("mixed-images")
    recipe = replace(recipe, load=replace(recipe.load, cycles=cycles))
    (arm,) = run(recipe, seed, None, lambda _: None, traced=traced).arms
    return arm.outcome.answers.tasks / arm.outcome.seconds


def main() -> None:
    """Print the pairs and the median of their ratios."""
    parser = argparse.ArgumentParser(description="Images per second of the worker, bare and traced.")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=2)
    options = parser.parse_args()
    ratios = []
    for pair in range(options.pairs):
        # Whoever goes first may find the machine in another state.
        order = (False, True) if pair % 2 else (True, False)
        found = {
            traced: images_per_second(pair + 1, traced=traced, cycles=options.cycles) for traced in order
        }
        ratios.append(found[True] / found[False])
        print(
            f"bare {found[False]:6.2f}, traced {found[True]:6.2f} images/s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
