"""Where the images of a batch lie in its one tensor, and that tensor."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.data import get_worker_info

from worker.ingest import beat

log = logging.getLogger(__name__)

# The parent gives shared memory back with each batch that it has worked on.
WAIT_S = 10.0
_PAUSE_S = 0.2

_OF_TORCH = re.compile(r"</(torch_[0-9_]+)>")

_is_short = False


class NoRoomError(Exception):
    """There is no memory, or no FD, for a single image; the text says of how many bytes."""


def allot(sizes: Sequence[int], max_bytes: int | None) -> tuple[torch.Tensor, tuple[int, ...]]:
    """A tensor for images of these sizes in bytes, and where in it each of them begins.

    These are fewer than the sizes if not all fit: as many as `max_bytes` allows, from the first on, and one at
    least. Where shared memory is short they become fewer still.

    Raises:
        NoRoomError: not even the first could be had within `WAIT_S`.
    """
    count = most = fitting(sizes, max_bytes)
    until = time.monotonic() + WAIT_S
    while True:
        fit = sizes[:count]
        try:
            pixels = flat(sum(fit))
        except (RuntimeError, OSError) as e:
            _failed(len(fit), sum(fit), e)
            if count == 1 and time.monotonic() > until:
                raise NoRoomError(f"no shared memory for {fit[0]} bytes: {e}") from e
        else:
            _worked(at_once=count == most)
            return pixels, tuple(accumulate(fit, initial=0))[:count]
        if count == 1:
            time.sleep(_PAUSE_S)
            beat.alive()
        count = max(1, count // 2)


def _failed(count: int, size: int, error: Exception) -> None:
    """Say so, once until all is well again, and take away what torch has left behind."""
    global _is_short
    if not _is_short:
        _is_short = True
        log.warning("no shared memory for %s images of %s bytes: %s; they become fewer", count, size, error)
    if left := _OF_TORCH.search(str(error)):
        _remove(Path("/dev/shm") / left[1])


def _worked(*, at_once: bool) -> None:
    global _is_short
    if _is_short and at_once:
        _is_short = False
        log.info("there is enough shared memory again")


def _remove(segment: Path) -> None:
    """The file and the FD that torch forgets where it could not make a segment as long as it should be: each try
    would cost one of each."""
    with suppress(OSError):  # at EMFILE there was no FD for it either
        segment.unlink(missing_ok=True)
        for fd in list(Path("/proc/self/fd").iterdir()):
            with suppress(FileNotFoundError):
                if str(fd.readlink()).removesuffix(" (deleted)") == str(segment):
                    os.close(int(fd.name))


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
