"""Naming insects: from boxes to labels with scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.pipelines.imaging import Box, crop


@dataclass(frozen=True, slots=True)
class Named:
    """Scores (softmax) and logits over the labels; `seconds` is the crop's share of its batch's time."""

    best: int
    scores: tuple[float, ...]
    logits: tuple[float, ...]
    seconds: float


class Classifier:
    """Scores of crops over the classes of one network, at most `batch_size` crops at once.

    `network` takes what `prepare` makes of crops (N, 3, `side`, `side`), float 0 to 255, and gives logits
    (N, classes).
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        prepare: Callable[[Tensor], Tensor],
        side: int,
        batch_size: int,
    ) -> None:
        self._network = network
        self._prepare = prepare
        self._side = side
        self._batch_size = batch_size

    @torch.inference_mode()
    def name(self, crops: Sequence[tuple[Tensor, Box]]) -> list[Named]:
        """One answer per (image, box), in order; images are (3, H, W) uint8 on the classifier's device."""
        answers: list[Named] = []
        for first in range(0, len(crops), self._batch_size):
            batch = crops[first : first + self._batch_size]
            start = time.perf_counter()
            pixels = torch.stack([crop(image, box, self._side) for image, box in batch])
            logits = self._network(self._prepare(pixels)).float()
            both = torch.stack([torch.softmax(logits, dim=1), logits]).tolist()
            share = (time.perf_counter() - start) / len(batch)
            for scores, raw in zip(*both, strict=True):
                best = max(range(len(scores)), key=scores.__getitem__)
                answers.append(Named(best, tuple(scores), tuple(raw), share))
        return answers
