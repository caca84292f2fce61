"""Where the images of a batch lie in its one tensor, and that tensor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch.utils.data import get_worker_info

from worker.ingest import beat

log = logging.getLogger(__name__)

# The parent gives shared memory back with each batch that it has worked on.
WAIT_S = 10.0
_PAUSE_S = 0.2


class NoRoomError(Exception):
    """There is no memory, or no FD, for a single image; the text says of how many bytes."""


def allot(sizes: Sequence[int], max_bytes: int | None) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A tensor for images of these sizes in bytes, and where in it each of them begins.

    These are fewer than the sizes if not all fit: as many as `max_bytes` allows, from the first on, and one at
    least. Where shared memory is short they become fewer still.

    Raises:
        NoRoomError: not even the first could be had within `WAIT_S`.
    """
    count = fitting(sizes, max_bytes)
    until = time.monotonic() + WAIT_S
    while True:
        fit = sizes[:count]
        try:
            return flat(sum(fit)), tuple(accumulate(fit, initial=0))[:count]
        except (RuntimeError, OSError) as e:
            log.warning("no shared memory for %s images of %s bytes: %s", count, sum(fit), e)
            if count == 1 and time.monotonic() > until:
                raise NoRoomError(f"no shared memory for {fit[0]} bytes: {e}") from e
        if count == 1:
            time.sleep(_PAUSE_S)
            beat.alive()
        count = max(1, count // 2)


def never_fits(size: int) -> bool:
    """Whether an image of `size` bytes is larger than /dev/shm with nothing in it."""
    room = os.statvfs("/dev/shm")
    return size > room.f_blocks * room.f_frsize


def fitting(sizes: Sequence[int], max_bytes: int | None) -> int:
    """How many images of these sizes in bytes, from the first on, fit into `max_bytes`; one always does."""
    if max_bytes is None:
        return len(sizes)
    within = sum(end <= max_bytes for end in accumulate(sizes))
    return max(within, min(1, len(sizes)))


def flat(size: int) -> torch.Tensor:
    """A tensor of `size` bytes; in a loader process in the shared segment that will travel.

    Raises:
        RuntimeError, OSError: no room in /dev/shm, or no FD left.
    """
    if size == 0 or get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # As torch's own default_collate does: no second copy when the batch is sent.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
