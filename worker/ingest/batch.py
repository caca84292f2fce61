"""One batch on its way to a loader process and back: a list of tasks, then a single tensor, and words about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from worker.antenna.schemas import Task
from worker.caches import CacheSize


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """What a loader process is asked for.

    `max_bytes`: most bytes of pixels that the batch may hold; the tasks whose images do not fit come back as
    `Batch.deferred`. One image is always loaded, whatever its size. `drain`: empty the caches of the process
    first; such a request may have no task.
    """

    tasks: tuple[Task, ...]
    job_id: int
    max_bytes: int | None = None
    drain: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A task whose image cannot be worked on, and why."""

    task: Task
    error: str


@dataclass(frozen=True, slots=True)
class LoaderReport:
    """What a loader process says of itself with each batch. Times in seconds, of the whole batch, wall-clock.

    `caches`: what its registered caches hold, after the drain if one was asked for. `to_drain`: whether one of
    them holds something that a drain takes out. `leftovers`: those that a drain has left with entries.
    """

    pid: int
    download_s: float = 0.0
    decode_s: float = 0.0
    file_bytes: int = 0
    caches: Mapping[str, CacheSize] = field(default_factory=dict)
    to_drain: bool = False
    leftovers: Mapping[str, CacheSize] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of a batch in one flat uint8 tensor.

    One tensor costs one FD and one segment whatever the number and sizes of the images, where a list of
    tensors costs one each (FACTS 7). `tasks[i]` has the image of `shapes[i]` (height, width), which begins at
    `pixels[offsets[i]]`; where an image could not be decoded its place stays empty.
    """

    pixels: torch.Tensor
    shapes: tuple[tuple[int, int], ...]
    offsets: tuple[int, ...]
    tasks: tuple[Task, ...]
    failures: tuple[Failure, ...]
    deferred: tuple[Task, ...]
    report: LoaderReport

    @property
    def bytes(self) -> int:
        """Bytes of pixels, as long as the batch lives."""
        return self.pixels.numel()

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; called by DataLoader's pinning thread."""
        return replace(self, pixels=self.pixels.pin_memory())

    def images(self, device: torch.device) -> list[torch.Tensor]:
        """The images on `device` as uint8 views (3, height, width) of one tensor that was moved once."""
        pixels = self.pixels.to(device, non_blocking=True)
        return [
            pixels[at : at + height * width * 3].view(height, width, 3).permute(2, 0, 1)
            for at, (height, width) in zip(self.offsets, self.shapes, strict=True)
        ]
