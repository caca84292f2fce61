"""What prefetch and pinning are worth: images per second, by size of the images and by loading against inference.

    python benchmarks/prefetch_ablation.py        two to five minutes

One loader process, batch 4, JPEGs from a server on loopback. Inference is a pause, which leaves the CPU to the loader
as a GPU does; the ratio is how long loading takes against it, on average. A pause is between nothing and twice the
average, at random, the same for all: it is for unevenness that one loads ahead. The choices take turns in each of 5
rounds; "against the first" is the median of the ratios to prefetch 1, unpinned, in the same round, with the lowest and
highest. Memory is what the model says. Pinned is measured where there is a GPU.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from image_server import Size, address, jpeg, serving

from worker.antenna.schemas import Task
from worker.guard.memory_model import MIB, Case, predict
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.loader import Loader
from worker.settings import read

BATCH = 4
ROUNDS = 5
# How many batches of each size make a round.
SIZES: dict[Size, int] = {(640, 480): 40, (4096, 3072): 4}
RATIOS = (0.5, 1.0, 2.0)
PREFETCHES = (1, 2, 4)
LOADER = "AMI_ANTENNA_API_DATALOADER_"


class Requests:
    """So many batches, each image with an address of its own."""

    def __init__(self, origin: str, size: Size, count: int, numbers: Iterator[int]) -> None:
        urls = (address(origin, size, number) for number in numbers)
        self._tasks = (Task(url, url, url, None) for url in urls)
        self._left = count

    def next_request(self) -> BatchRequest | None:
        """The next batch, None at the end."""
        if not self._left:
            return None
        self._left -= 1
        return BatchRequest(tasks=tuple(itertools.islice(self._tasks, BATCH)), job_id=1)

    def arrived(self, batch: Batch) -> None:
        """Nothing to learn from it."""


class Bench:
    """One loader, used for several rounds."""

    def __init__(self, origin: str, size: Size, prefetch: int, *, pinned: bool) -> None:
        variables = {
            "AMI_ANTENNA_API_AUTH_TOKEN": "none",
            LOADER + "MP_CONTEXT": "fork",
            LOADER + "PREFETCH_FACTOR": str(prefetch),
            LOADER + "PIN_MEMORY": str(pinned).lower(),
        }
        self._loader = Loader(read(Path("/dev/null"), variables).settings)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._origin, self._size = origin, size
        self._numbers = itertools.count()

    def seconds(self, pause: float) -> float:
        """Per image, with so long a pause for each on average."""
        count = SIZES[self._size]
        pauses = random.Random(1)
        self._loader.begin(Requests(self._origin, self._size, count, self._numbers))
        started = time.perf_counter()
        for batch in iter(self._loader.next, None):
            self._loader.ask()
            batch.images(self._device)
            time.sleep(pauses.uniform(0, 2 * pause) * BATCH)
            del batch
        return (time.perf_counter() - started) / count / BATCH

    def close(self) -> None:
        """End the loader process."""
        self._loader.close()


def main() -> None:
    """Print the table."""
    pinnings = (False, True) if torch.cuda.is_available() else (False,)
    if len(pinnings) == 1:
        print("Pinned: not measured here, there is no GPU.\n")
    columns = "image|loading : inference|prefetch|pinned|images/s|against the first|from|to|memory, MiB"
    print(f"| {columns.replace('|', ' | ')} |\n|{'---|' * 9}")
    choices = list(itertools.product(pinnings, PREFETCHES))
    with serving(list(SIZES)) as origin:
        for size in SIZES:
            benches = {(n, p): Bench(origin, size, n, pinned=p) for p, n in choices}
            _compare(size, benches)
            for bench in benches.values():
                bench.close()


def _compare(size: Size, benches: dict[tuple[int, bool], Bench]) -> None:
    for bench in benches.values():
        bench.seconds(0.0)
    load = statistics.median(bench.seconds(0.0) for bench in benches.values())
    for ratio in RATIOS:
        rounds = [{choice: b.seconds(load / ratio) for choice, b in benches.items()} for _ in range(ROUNDS)]
        for prefetch, pinned in benches:
            rate = 1 / statistics.median(one[prefetch, pinned] for one in rounds)
            against = sorted(one[next(iter(benches))] / one[prefetch, pinned] for one in rounds)
            figures = f"{statistics.median(against):.2f} | {against[0]:.2f} | {against[-1]:.2f}"
            files = len(jpeg(size, 0))
            case = Case(size[0] * size[1], files, BATCH, prefetch, 1, pinned=pinned, start_method="fork")
            print(
                f"| {size[0]}×{size[1]} | {ratio:g} | {prefetch} | {'yes' if pinned else 'no'} | {rate:.1f} | "
                f"{figures} | {predict(case).total / MIB:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
