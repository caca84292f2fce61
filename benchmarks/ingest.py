"""Images per second to the device: our loader against one as the public worker's is written, in paired rounds.

    python benchmarks/ingest.py --pairs 9

Both load the same JPEGs from the same server on loopback, in batches of the same size, with one loader process,
8 threads, the same prefetch and nothing pinned. A round begins with nothing loaded and ends when all its batches
are on the device; the start of the loader processes is in no round. Every address is new, so that no cache helps.
Exit code 1 where the median ratio of some size is below 3.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch
from image_server import Size, address, serving
from upstream_loader import UpstreamLoader

from worker.antenna.schemas import Task
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.loader import Loader
from worker.settings import read


class Case(NamedTuple):
    """Images of one size: how many make a batch, how many batches are loaded ahead, images of one round."""

    size: Size
    batch: int
    prefetch: int
    images: int


# The defaults where memory allows them: 24 images of 12 megapixels are 3.4 GiB in float32, five times in flight.
CASES = (Case((640, 480), 24, 4, 240), Case((2048, 1536), 8, 4, 32), Case((4096, 3072), 4, 2, 12))
_WANTED = 3.0
_METHOD = "fork"


class Addresses:
    """What `Loader` is fed by: images by their address, in batches."""

    def __init__(self, addresses: list[str], batch: int) -> None:
        tasks = [Task(id=a, image_id=a, image_url=a, reply_subject=None) for a in addresses]
        batches = (tuple(tasks[at : at + batch]) for at in range(0, len(tasks), batch))
        self._requests = iter([BatchRequest(tasks=some, job_id=1) for some in batches])

    def next_request(self) -> BatchRequest | None:
        """The next batch, None at the end."""
        return next(self._requests, None)

    def arrived(self, batch: Batch) -> None:
        """Nothing to learn from it."""


class OurLoader:
    """The worker's loader with its default settings, but for what is the same for both."""

    def __init__(self, case: Case) -> None:
        self._batch = case.batch
        variables = {
            "AMI_ANTENNA_API_AUTH_TOKEN": "none",
            "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": _METHOD,
            "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR": str(case.prefetch),
            "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": "false",
        }
        self._loader = Loader(read(Path("/dev/null"), variables).settings)

    def load(self, addresses: list[str], device: torch.device) -> int:
        """Have the images on the device, a batch at a time; returns how many there were."""
        self._loader.begin(Addresses(addresses, self._batch))
        return sum(len(batch.images(device)) for batch in iter(self._loader.next, None))

    def close(self) -> None:
        """End the loader process."""
        self._loader.close()


def rate(loader: OurLoader | UpstreamLoader, addresses: list[str], device: torch.device) -> float:
    """Images per second of one round."""
    started = time.perf_counter()
    images = loader.load(addresses, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if images != len(addresses):
        sys.exit(f"{type(loader).__name__} gave {images} of {len(addresses)} images")
    return images / seconds


def pairs(origin: str, case: Case, rounds: int, device: torch.device) -> list[tuple[float, float]]:
    """Images per second of (ours, theirs) in each round, after one for warmth that does not count."""
    ours, theirs = OurLoader(case), UpstreamLoader(case.batch, case.prefetch, _METHOD)
    number = itertools.count()
    found = []
    for turn in range(rounds + 1):
        rates = {}
        # Whoever goes first may find the machine in another state.
        for loader in (ours, theirs) if turn % 2 else (theirs, ours):
            addresses = [address(origin, case.size, next(number)) for _ in range(case.images)]
            rates[loader] = rate(loader, addresses, device)
        if turn:
            found.append((rates[ours], rates[theirs]))
    ours.close()
    return found


def row(case: Case, found: list[tuple[float, float]]) -> str:
    """A line of the table."""
    ratios = [ours / theirs for ours, theirs in found]
    middle = statistics.median(ratios)
    ours, theirs = (statistics.median(column) for column in zip(*found, strict=True))
    cells = (
        f"{case.size[0]}×{case.size[1]}",
        f"{case.batch}, {case.prefetch}",
        f"{ours:.1f}",
        f"{theirs:.1f}",
        f"{middle:.2f}",
        f"{min(ratios):.2f}",
        f"{max(ratios):.2f}",
        "met" if middle >= _WANTED else "NOT met",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a line for each size; exit code 1 where a median ratio is below 3."""
    parser = argparse.ArgumentParser(description="Images per second to the device, ours and upstream's way.")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"one loader process, {options.pairs} pairs, on {device}")
    print("| image | batch, prefetch | ours, images/s | theirs | median ratio | from | to | |")
    print("|---|---|---|---|---|---|---|---|")
    worst = float("inf")
    with serving([case.size for case in CASES]) as origin:
        for case in CASES:
            found = pairs(origin, case, options.pairs, device)
            worst = min(worst, statistics.median(ours / theirs for ours, theirs in found))
            print(row(case, found), flush=True)
    sys.exit(0 if worst >= _WANTED else 1)


if __name__ == "__main__":
    main()
