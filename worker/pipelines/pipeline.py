"""A pipeline: detector and classifiers, resident on a device, from images to detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from worker.pipelines.catalogue import BINARY, DETECTOR, SPECIES, algorithms
from worker.pipelines.classifier import Classifier, Named
from worker.pipelines.detection import Algorithm, Classification, Detection
from worker.pipelines.detector import Detector
from worker.pipelines.imaging import Box, to_rgb
from worker.pipelines.networks import CropNet, DetectorNet

Network = TypeVar("Network", bound=nn.Module)

WEIGHTS = Path(__file__).parent / "weights"


class Pipeline:
    """What `load_pipeline` returns. Holds its networks on the device, and no file or other descriptor."""

    def __init__(
        self,
        slug: str,
        device: torch.device,
        detector: Detector,
        binary: Classifier,
        species: Classifier | None,
        classification_threshold: float,
    ) -> None:
        self.slug = slug
        self.device = device
        self._detector = detector
        self._binary = binary
        self._species = species
        self._threshold = classification_threshold

    def process(self, images: Sequence[Tensor]) -> list[list[Detection]]:
        """The detections in each image, in the order of `images`; an empty list where nothing was found.

        Args:
            images: uint8 tensors (3, H, W) of any and mixed sizes, on any device; grey (1, H, W)
                and an alpha channel are tolerated. They become float on the pipeline's device.

        Raises:
            ValueError: something that is no uint8 image.
        """
        here = [to_rgb(image).to(self.device, non_blocking=True) for image in images]
        located = self._detector.locate(here)
        crops: list[tuple[Tensor, Box]] = []
        for image, answer in zip(here, located, strict=True):
            crops.extend((image, found.box) for found in answer.found)
        labelled = iter(self._classify(crops))
        return [
            [
                Detection(found.box, found.score, DETECTOR, answer.seconds, next(labelled))
                for found in answer.found
            ]
            for answer in located
        ]

    def _classify(self, crops: Sequence[tuple[Tensor, Box]]) -> list[tuple[Classification, ...]]:
        kinds = self._binary.name(crops)
        if self._species is None:
            return [(_classification(BINARY, named, terminal=True),) for named in kinds]
        moths = [number for number, named in enumerate(kinds) if BINARY.labels[named.best] == "moth"]
        species = dict(zip(moths, self._species.name([crops[number] for number in moths]), strict=True))
        labelled: list[tuple[Classification, ...]] = []
        for number, named in enumerate(kinds):
            finer = species.get(number)
            sure = finer is not None and finer.scores[finer.best] >= self._threshold
            classifications = [_classification(BINARY, named, terminal=not sure)]
            if finer is not None:
                classifications.append(_classification(SPECIES, finer, terminal=sure))
            labelled.append(tuple(classifications))
        return labelled


def load_pipeline(
    slug: str,
    *,
    device: torch.device,
    localization_batch_size: int = 8,
    classification_batch_size: int = 20,
    classification_threshold: float = 0.6,
) -> Pipeline:
    """Read the weights of pipeline `slug` and put its networks onto `device`.

    Args:
        slug: one of `PIPELINES`.
        device: where the networks run.
        localization_batch_size, classification_batch_size: most images, crops per pass of a network.
            On a CPU 1 or 2 images are fastest: 8 take twice as long per image, as they leave the cache.
        classification_threshold: a species whose score is below it is posted all the same, but is
            not terminal: the coarser label (moth) is. No detection is dropped. The coarsest label
            is always terminal, whatever its score, so `moth_binary` does not depend on it.

    Raises:
        KeyError: no such pipeline.
        ValueError: a batch size below 1 or a threshold outside 0 to 1.
    """
    if localization_batch_size < 1 or classification_batch_size < 1:
        raise ValueError(
            f"batch sizes {localization_batch_size}, {classification_batch_size}: each is at least 1"
        )
    if not 0 <= classification_threshold <= 1:
        raise ValueError(f"classification_threshold {classification_threshold} is outside 0 to 1")
    used = algorithms(slug)

    def classifier(algorithm: Algorithm) -> Classifier:
        network = CropNet(len(algorithm.labels))
        return Classifier(_with_weights(network, algorithm), device, classification_batch_size)

    return Pipeline(
        slug,
        device,
        Detector(_with_weights(DetectorNet(), DETECTOR), device, localization_batch_size),
        classifier(BINARY),
        classifier(SPECIES) if SPECIES in used else None,
        classification_threshold,
    )


def weights_file(algorithm: Algorithm) -> Path:
    """Where the state of an algorithm's network lies in the package: half precision, a few hundred kB."""
    return WEIGHTS / f"{algorithm.key}.pt"


def _with_weights(network: Network, algorithm: Algorithm) -> Network:
    network.load_state_dict(torch.load(weights_file(algorithm), map_location="cpu", weights_only=True))
    return network


def _classification(algorithm: Algorithm, named: Named, *, terminal: bool) -> Classification:
    return Classification(
        label=algorithm.labels[named.best],
        labels=algorithm.labels,
        scores=named.scores,
        logits=named.logits,
        algorithm=algorithm,
        terminal=terminal,
        inference_time=named.seconds,
    )
