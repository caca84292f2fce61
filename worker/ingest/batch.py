"""One batch on its way from a loader process to the pipeline: a single tensor, and words about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.utils.data import get_worker_info

from worker.antenna.schemas import Task
from worker.ingest.decode import Pixels


@dataclass(frozen=True, slots=True)
class Sample:
    """What became of one task: pixels (height, width, 3), or why there are none."""

    task: Task
    pixels: Pixels | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A task whose image cannot be worked on, and why."""

    task: Task
    error: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of a batch, one after another in one flat uint8 tensor.

    One tensor costs one FD and one segment whatever the number and sizes of the images, where a list of
    tensors costs one each (FACTS 7). `tasks[i]` has the image of `shapes[i]` (height, width).
    """

    pixels: torch.Tensor
    shapes: tuple[tuple[int, int], ...]
    tasks: tuple[Task, ...]
    failures: tuple[Failure, ...]

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; called by DataLoader's pinning thread."""
        return replace(self, pixels=self.pixels.pin_memory())

    def images(self, device: torch.device) -> list[torch.Tensor]:
        """The images on `device` as uint8 views (3, height, width) of one tensor that was moved once."""
        pixels = self.pixels.to(device, non_blocking=True)
        images, at = [], 0
        for height, width in self.shapes:
            end = at + height * width * 3
            images.append(pixels[at:end].view(height, width, 3).permute(2, 0, 1))
            at = end
        return images


def collate(samples: Sequence[Sample]) -> Batch:
    """Pack samples; in a loader process straight into the shared segment that will travel."""
    good = [(s.task, s.pixels) for s in samples if s.pixels is not None]
    pixels = _flat(sum(p.size for _, p in good))
    packed, at = pixels.numpy(), 0
    for _, image in good:
        packed[at : at + image.size] = image.reshape(-1)
        at += image.size
    return Batch(
        pixels=pixels,
        shapes=tuple((int(p.shape[0]), int(p.shape[1])) for _, p in good),
        tasks=tuple(task for task, _ in good),
        failures=tuple(
            Failure(s.task, s.error or "failed to load image") for s in samples if s.pixels is None
        ),
    )


def _flat(size: int) -> torch.Tensor:
    if size == 0 or get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    # As torch's own default_collate does: no second copy when the batch is sent.
    storage = torch.UntypedStorage._new_shared(size)  # type: ignore[no-untyped-call]
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))
