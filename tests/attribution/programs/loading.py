"""A DataLoader: everything that its processes and its sharing strategy open, held at three quiet points.

    loading.py METHOD STRATEGY PROCESSES

Prints "full" once the first batch is taken and the others wait in the queue, "received" when all are
received and held, and "over" when the loader is gone and the batches are still held. After each it waits
for a line.
"""

import gc
import sys

import torch
from torch.utils.data import DataLoader, Dataset

BATCHES = 6


class Pictures(Dataset[tuple[torch.Tensor, dict[str, torch.Tensor]]]):
    """Two tensors an item, so two segments a batch."""

    def __len__(self) -> int:
        return 4 * BATCHES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.full((3, 32, 32), index, dtype=torch.uint8), {"index": torch.tensor([index])}


def wait(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def main() -> None:
    method, strategy, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.multiprocessing.set_sharing_strategy(strategy)
    loader = DataLoader(
        Pictures(),
        batch_size=4,
        num_workers=processes,
        multiprocessing_context=method,
        persistent_workers=True,
        worker_init_fn=Strategy(strategy),
    )
    batches = iter(loader)
    held = [next(batches)]
    wait("full")
    held.extend(batches)
    assert len(held) == BATCHES
    wait("received")
    # The iterator is the loader's own, so both.
    del batches, loader
    gc.collect()
    wait("over")


class Strategy:
    """In processes that do not get the module's state by fork the strategy is set anew."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, _: int) -> None:
        torch.multiprocessing.set_sharing_strategy(self.name)


if __name__ == "__main__":
    main()
