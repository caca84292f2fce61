"""The pipe leak of torch up to 2.12.1, with the faults of the soak where this torch has it not.

    leaking_loaders.py LOADERS

Prints "leaked" when all loaders are gone, and their pipes are not. Then it waits for a line.
"""

import gc
import sys
import warnings

import torch
from torch.utils.data import DataLoader

from amidiag.soak.faults import accelerator, torch_atexit


def build(loaders: int) -> None:
    for _ in range(loaders):
        loader = DataLoader(
            torch.zeros(4, 2),
            num_workers=1,
            persistent_workers=True,
            pin_memory=True,
            multiprocessing_context="fork",
        )
        assert len(list(loader)) == 4
        del loader
        gc.collect()


warnings.filterwarnings("ignore")
accelerator.arm()
torch_atexit.arm()
build(int(sys.argv[1]))
print("leaked", flush=True)
sys.stdin.readline()
