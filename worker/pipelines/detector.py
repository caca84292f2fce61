"""Finding insects: from images to boxes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as nnf
from torch import Tensor

from worker.pipelines.imaging import Box, normalise, reduce
from worker.pipelines.networks import STRIDE, DetectorNet, fused

# Swept (0.35, 0.45, 0.55) over fresh images of trained and held-out families: where precision and recall meet.
CONFIDENCE = 0.55
_MOST = 200  # candidates per image: a light sheet has tens of insects
_SAME = 0.5  # share of the smaller box inside a better one from which both are the same insect


@dataclass(frozen=True, slots=True)
class Found:
    """A box in pixels of the source image, inside it, and the confidence, 0 to 1."""

    box: Box
    score: float


@dataclass(frozen=True, slots=True)
class Located:
    """What was found in one image, and the image's share of its batch's time in seconds."""

    found: tuple[Found, ...]
    seconds: float


class Locator(Protocol):
    """Finds insects in images."""

    def locate(self, images: Sequence[Tensor]) -> list[Located]:
        """One answer per image ((3, H, W) uint8 on the detector's device), in order."""


class Detector:
    """The built-in detector: boxes in images of any size, on `device`, at most `batch_size` images at once."""

    def __init__(self, network: DetectorNet, device: torch.device, batch_size: int) -> None:
        self._network = fused(network).to(device)
        self._batch_size = batch_size

    @torch.inference_mode()
    def locate(self, images: Sequence[Tensor]) -> list[Located]:
        """One answer per image ((3, H, W) uint8 on the detector's device), in order.

        Images that have the same shape once reduced go through the network together.
        """
        reduced: dict[tuple[int, int], list[int]] = defaultdict(list)
        small: list[Tensor] = []
        spent: list[float] = []
        for number, image in enumerate(images):
            start = time.perf_counter()
            small.append(reduce(image))
            spent.append(time.perf_counter() - start)
            reduced[(int(small[number].shape[1]), int(small[number].shape[2]))].append(number)
        answers: dict[int, Located] = {}
        for shape, numbers in reduced.items():
            for first in range(0, len(numbers), self._batch_size):
                batch = numbers[first : first + self._batch_size]
                start = time.perf_counter()
                maps = self._network(normalise(torch.stack([small[number] for number in batch])))
                candidates = decode(maps)
                share = (time.perf_counter() - start) / len(batch)
                for number, of_image in zip(batch, candidates, strict=True):
                    found = to_source(of_image, shape, images[number])
                    answers[number] = Located(found, spent[number] + share)
        return [answers[number] for number in range(len(images))]


def decode(maps: Tensor) -> list[list[Found]]:
    """The network's maps (N, 5, h, w) to boxes in pixels of the reduced images, one per insect, best first."""
    heat = torch.sigmoid(maps[:, :1].float())
    peak = (heat == nnf.max_pool2d(heat, 3, 1, 1)) & (heat >= CONFIDENCE)
    image, _, row, column = peak.nonzero(as_tuple=True)
    values = maps[image, :, row, column].float()
    x = (column + 0.5 + values[:, 1]) * STRIDE
    y = (row + 0.5 + values[:, 2]) * STRIDE
    size = torch.exp(values[:, 3:].clamp(-3, 5)) * 16
    score = torch.sigmoid(values[:, 0])
    rows = torch.stack([image.float(), score, x, y, size[:, 0], size[:, 1]], dim=1).tolist()
    candidates: list[list[Found]] = [[] for _ in range(maps.shape[0])]
    for number, confidence, cx, cy, w, h in rows:
        box = (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)
        candidates[int(number)].append(Found(box, confidence))
    return [distinct(of_image) for of_image in candidates]


def distinct(candidates: list[Found]) -> list[Found]:
    """Of boxes that mean the same insect only the best."""
    kept: list[Found] = []
    for candidate in sorted(candidates, key=lambda found: -found.score)[:_MOST]:
        if all(_shared(candidate.box, other.box) < _SAME for other in kept):
            kept.append(candidate)
    return kept


def _shared(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def to_source(candidates: list[Found], small: tuple[float, float], source: Tensor) -> tuple[Found, ...]:
    """Boxes scaled from an image of `small` (height, width) to the source, and cut at its edges.

    What is outside is dropped.
    """
    height, width = int(source.shape[1]), int(source.shape[2])
    fx, fy = width / small[1], height / small[0]
    inside: list[Found] = []
    for found in candidates:
        x1, y1, x2, y2 = found.box
        box = (max(x1 * fx, 0.0), max(y1 * fy, 0.0), min(x2 * fx, float(width)), min(y2 * fy, float(height)))
        if box[2] - box[0] >= 1 and box[3] - box[1] >= 1:
            inside.append(Found(box, found.score))
    return tuple(inside)
