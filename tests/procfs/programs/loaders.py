"""A torch DataLoader with one loader process by start method ARGV[1].

First answer: the loader process's PID. At the next line it is shut down, but its Process object is
kept, as torch up to 2.12.1 does: its two sentinel pipe ends stay. Second answer: "ended".
"""

import json
import sys
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1000,), index)


if __name__ == "__main__":
    loader = DataLoader(Numbers(), batch_size=1, num_workers=1, multiprocessing_context=sys.argv[1])
    batches: Any = iter(loader)
    next(batches)
    kept = batches._workers[0]
    print(json.dumps(kept.pid), flush=True)
    sys.stdin.readline()
    batches._shutdown_workers()
    del batches, loader
    print(json.dumps("ended"), flush=True)
    sys.stdin.readline()
