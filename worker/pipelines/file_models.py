"""Detectors and classifiers whose network comes from a file of the user's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from worker.pipelines.classifier import Classifier
from worker.pipelines.detection import Algorithm
from worker.pipelines.detector import Found, Located, distinct, to_source
from worker.pipelines.model_file import LoadedModel, load_model
from worker.pipelines.spec import ModelFile, Scaling


def file_classifier(
    file: ModelFile, algorithm: Algorithm, device: torch.device, batch_size: int
) -> Classifier:
    """A classifier from a file; its network gives logits (N, labels).

    Raises:
        ModelError: it cannot be loaded, or its output does not fit the labels.
    """
    labels = len(algorithm.labels)

    def check(output: Any, count: int) -> None:
        _check_tensor(output, f"({count}, {labels}), a logit for each of its {labels} labels")
        if tuple(output.shape) != (count, labels):
            raise ValueError(
                f"its output for {count} crops is {tuple(output.shape)}, and must be ({count}, {labels}): a logit for "
                f"each of its {labels} labels"
            )

    model = load_model(file, device, batch_size, check)
    return Classifier(model, Prepare(file.scaling, device), file.height, min(batch_size, model.most))


def file_detector(file: ModelFile, threshold: float, device: torch.device, batch_size: int) -> FileDetector:
    """A detector from a file; its network gives (N, K, 5): boxes x1, y1, x2, y2 in pixels of its input, and scores.

    Raises:
        ModelError: it cannot be loaded, or its output is not of that kind.
    """
    model = load_model(file, device, batch_size, _check_boxes)
    return FileDetector(model, file, threshold, Prepare(file.scaling, device), min(batch_size, model.most))


class Prepare:
    """Crops or images (N, 3, H, W), float 0 to 255, as the network wants them."""

    def __init__(self, scaling: Scaling, device: torch.device) -> None:
        self._mean = torch.tensor(scaling.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(scaling.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels - self._mean) / self._std


class FileDetector:
    """Boxes of insects in images of any size, with a network that has an input of one size.

    An image is scaled so that it fits into the input, its aspect kept, and stands in its upper left corner; the
    rest is black. Of boxes that mean the same insect only the best is kept.
    """

    def __init__(
        self, network: LoadedModel, file: ModelFile, threshold: float, prepare: Prepare, batch_size: int
    ) -> None:
        self._network = network
        self._size = (file.height, file.width)
        self._threshold = threshold
        self._prepare = prepare
        self._batch_size = batch_size

    @torch.inference_mode()
    def locate(self, images: Sequence[Tensor]) -> list[Located]:
        """One answer per image ((3, H, W) uint8 on the detector's device), in order."""
        answers: list[Located] = []
        for first in range(0, len(images), self._batch_size):
            batch = images[first : first + self._batch_size]
            start = time.perf_counter()
            output = self._network(self._prepare(torch.stack([self._framed(image) for image in batch])))
            _check_boxes(output, len(batch))
            found = [self._found(rows, image) for rows, image in zip(output.float(), batch, strict=True)]
            share = (time.perf_counter() - start) / len(batch)
            answers.extend(Located(of_image, share) for of_image in found)
        return answers

    def _framed(self, image: Tensor) -> Tensor:
        height, width = _fitting(image, self._size)
        small = nnf.interpolate(
            image[None].float(), size=(height, width), mode="bilinear", antialias=True, align_corners=False
        )[0]
        return nnf.pad(small, (0, self._size[1] - width, 0, self._size[0] - height))

    def _found(self, rows: Tensor, image: Tensor) -> tuple[Found, ...]:
        # What is no number is not above anything either. Few of thousands of rows are a box.
        boxes = rows[(rows[:, 4] >= self._threshold) & (rows[:, 2:4] > rows[:, :2]).all(dim=1)]
        candidates = [Found((x1, y1, x2, y2), min(score, 1.0)) for x1, y1, x2, y2, score in boxes.tolist()]
        return to_source(distinct(candidates), _fitting(image, self._size), image)


def _fitting(image: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the image once it fits into `size`."""
    height, width = int(image.shape[1]), int(image.shape[2])
    scale = min(size[0] / height, size[1] / width)
    return max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale)))


def _check_boxes(output: Any, count: int) -> None:
    wanted = f"({count}, K, 5): x1, y1, x2, y2 in pixels of the input and the score of each box"
    _check_tensor(output, wanted)
    if output.dim() != 3 or output.shape[0] != count or output.shape[2] != 5:
        raise ValueError(f"its output for {count} images is {tuple(output.shape)}, and must be {wanted}")


def _check_tensor(output: Any, wanted: str) -> None:
    if not isinstance(output, Tensor) or not output.is_floating_point():
        kind = f"a tensor of {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ValueError(f"its output is {kind}, and must be a float tensor {wanted}")
