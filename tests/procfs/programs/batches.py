"""A DataLoader with one loader process that prefetches ARGV[2] batches of 6 MiB, by sharing strategy ARGV[1].

One batch is taken and kept. Says the loader's PID and the bytes of a batch. At the next line the loader,
`torch_shm_manager` where there is one, and this process are killed: nobody is left to tidy up.
"""

import json
import os
import signal
import sys

import psutil
import torch
import torch.multiprocessing
from torch.utils.data import DataLoader, Dataset

MIB = 1 << 20


class Images(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((3 * MIB,), index % 251, dtype=torch.uint8)


def use_strategy(_: int = 0) -> None:
    torch.multiprocessing.set_sharing_strategy(sys.argv[1])


if __name__ == "__main__":
    use_strategy()
    loader = DataLoader(
        Images(),
        batch_size=2,
        num_workers=1,
        prefetch_factor=int(sys.argv[2]),
        worker_init_fn=use_strategy,
    )
    batches = iter(loader)
    kept = next(batches)
    print(json.dumps({"loader": batches._workers[0].pid, "batch": 6 * MIB}), flush=True)
    sys.stdin.readline()
    for child in psutil.Process().children(recursive=True):
        child.kill()
    os.kill(os.getpid(), signal.SIGKILL)
