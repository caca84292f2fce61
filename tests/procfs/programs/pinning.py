"""A torch DataLoader that pins its batches, on an accelerator that is emulated. Says how many batches it took."""

import json
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from amidiag.soak.faults import accelerator


class Numbers(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.full((1000,), index)


if __name__ == "__main__":
    accelerator.arm()
    batches: Any = iter(DataLoader(Numbers(), num_workers=1, pin_memory=True))
    next(batches)
    print(json.dumps(1), flush=True)
    input()
