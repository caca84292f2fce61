"""A loader as the public worker's is written (ami-data-companion, `trapdata/antenna/datasets.py`), without its server.

The same way of an image: 8 threads in the loader process, `requests` with one session, Pillow, convert to RGB,
the arithmetic of torchvision's ToTensor, one stacked tensor where all sizes are alike. Addresses are given instead
of being asked for, and nothing is pinned.
"""

from __future__ import annotations

import io
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import requests
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

_THREADS = 8

Batch = torch.Tensor | list[torch.Tensor]


class AddressQueue:
    """What the loader process is told to load next; stands in for the server's `tasks/`."""

    def __init__(self, context: Any) -> None:
        self._rounds = context.SimpleQueue()

    def put(self, addresses: list[str]) -> None:
        """A round of images."""
        self._rounds.put(addresses)

    def get(self) -> list[str]:
        """The round that was put first."""
        addresses: list[str] = self._rounds.get()
        return addresses


class _Images(IterableDataset[Batch]):
    def __init__(self, queue: AddressQueue, batch_size: int) -> None:
        self._queue = queue
        self._batch_size = batch_size
        self._session: requests.Session | None = None
        self._executor: ThreadPoolExecutor | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._session is None or self._executor is None:
            self._session = requests.Session()
            self._executor = ThreadPoolExecutor(max_workers=_THREADS)
        addresses = self._queue.get()
        for at in range(0, len(addresses), self._batch_size):
            yield _collate(list(self._executor.map(self._load, addresses[at : at + self._batch_size])))

    def _load(self, address: str) -> torch.Tensor:
        assert self._session is not None
        response = self._session.get(address, timeout=30)
        response.raise_for_status()
        image: Image.Image = Image.open(io.BytesIO(response.content))
        if image.mode != "RGB":
            image = image.convert("RGB")
        return _to_tensor(image)


def _to_tensor(image: Image.Image) -> torch.Tensor:
    """As torchvision.transforms.functional.to_tensor does it, step by step."""
    pixels = torch.from_numpy(np.array(image, np.uint8, copy=True))
    pixels = pixels.view(image.size[1], image.size[0], 3)
    return pixels.permute((2, 0, 1)).contiguous().to(dtype=torch.float32).div(255)


def _collate(images: list[torch.Tensor]) -> Batch:
    return torch.stack(images) if len({image.shape for image in images}) == 1 else images


def _only(batch: list[Batch]) -> Batch:
    return batch[0]


class UpstreamLoader:
    """One loader process that is kept, so that its start is in no round."""

    def __init__(self, batch_size: int, prefetch: int, start_method: str) -> None:
        context = multiprocessing.get_context(start_method)
        self._queue = AddressQueue(context)
        self._loader = DataLoader(
            _Images(self._queue, batch_size),
            batch_size=1,
            num_workers=1,
            collate_fn=_only,
            persistent_workers=True,
            prefetch_factor=prefetch,
            multiprocessing_context=context,
        )

    def load(self, addresses: list[str], device: torch.device) -> int:
        """Have the images on the device, a batch at a time; returns how many there were."""
        self._queue.put(addresses)
        images = 0
        for batch in self._loader:
            moved = [image.to(device) for image in batch] if isinstance(batch, list) else batch.to(device)
            images += len(moved)
        return images
