"""Where the images of a batch lie in its one tensor, and that tensor."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch.utils.data import get_worker_info


def fitting(sizes: Sequence[int], max_bytes: int | None) -> int:
    """How many images of these sizes in bytes, from the first on, fit into `max_bytes`; one always does."""
    if max_bytes is None:
        return len(sizes)
    within = sum(end <= max_bytes for end in accumulate(sizes))
    return max(within, min(1, len(sizes)))


def offsets(sizes: Sequence[int]) -> tuple[int, ...]:
    """Where images of these sizes in bytes begin, one after another."""
    return tuple(accumulate(sizes, initial=0))[: len(sizes)]


def flat(size: int) -> torch.Tensor:
    """A tensor of `size` bytes; in a loader process in the shared segment that will travel.

    Raises:
        RuntimeError: no room in /dev/shm, or no FD left.
    """
    if size == 0 or get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # As torch's own default_collate does: no second copy when the batch is sent.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
