"""A pipeline: detector and classifiers, resident on a device, from images to detections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from worker.pipelines.catalogue import built_in
from worker.pipelines.classifier import Classifier, Named
from worker.pipelines.detection import Algorithm, Classification, Detection
from worker.pipelines.detector import Detector, Locator
from worker.pipelines.file_models import file_classifier, file_detector
from worker.pipelines.imaging import Box, normalise, to_rgb
from worker.pipelines.networks import CROP_SIDE, CropNet, DetectorNet, fused
from worker.pipelines.spec import DetectorSpec, Follows, PipelineSpec, StageSpec

Network = TypeVar("Network", bound=nn.Module)

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, slots=True)
class Stage:
    """One classifier of a pipeline; `threshold` as in `StageSpec`, already decided."""

    classifier: Classifier
    algorithm: Algorithm
    follows: Follows | None
    threshold: float

    def is_sure(self, named: Named) -> bool:
        """Whether its label counts. The coarse one always does."""
        return self.follows is None or named.scores[named.best] >= self.threshold


class Pipeline:
    """What `build` and `load_pipeline` return. Holds its networks on the device, and no file or descriptor."""

    def __init__(
        self, slug: str, device: torch.device, detector: Locator, finds: Algorithm, stages: Sequence[Stage]
    ) -> None:
        self.slug = slug
        self.device = device
        self._detector = detector
        self._finds = finds
        self._stages = tuple(stages)

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
                Detection(found.box, found.score, self._finds, answer.seconds, next(labelled))
                for found in answer.found
            ]
            for answer in located
        ]

    def _classify(self, crops: Sequence[tuple[Tensor, Box]]) -> list[tuple[Classification, ...]]:
        given: list[dict[int, Named]] = []
        for stage in self._stages:
            meant = self._meant(stage, given, len(crops))
            named = stage.classifier.name([crops[number] for number in meant])
            given.append(dict(zip(meant, named, strict=True)))
        return [self._in_order(number, given) for number in range(len(crops))]

    def _meant(self, stage: Stage, given: Sequence[dict[int, Named]], count: int) -> list[int]:
        """The crops that a stage names: all, or those whose label it follows."""
        if stage.follows is None:
            return list(range(count))
        before = self._stages[stage.follows.stage]
        return [
            number
            for number, named in given[stage.follows.stage].items()
            if before.algorithm.labels[named.best] == stage.follows.label and before.is_sure(named)
        ]

    def _in_order(self, number: int, given: Sequence[dict[int, Named]]) -> tuple[Classification, ...]:
        """The labels of one crop from coarse to fine; the finest that is sure is the terminal one."""
        path = [(stage, of[number]) for stage, of in zip(self._stages, given, strict=True) if number in of]
        last = max(at for at, (stage, named) in enumerate(path) if stage.is_sure(named))
        return tuple(
            _classification(stage.algorithm, named, terminal=at == last)
            for at, (stage, named) in enumerate(path)
        )


def load_pipeline(
    slug: str,
    *,
    device: torch.device,
    localization_batch_size: int = 8,
    classification_batch_size: int = 20,
    classification_threshold: float = 0.6,
) -> Pipeline:
    """A built-in pipeline; the arguments are those of `build`.

    Raises:
        KeyError: no such pipeline.
        ValueError: a batch size below 1 or a threshold outside 0 to 1.
    """
    return build(
        built_in(slug),
        device=device,
        localization_batch_size=localization_batch_size,
        classification_batch_size=classification_batch_size,
        classification_threshold=classification_threshold,
    )


def build(
    spec: PipelineSpec,
    *,
    device: torch.device,
    localization_batch_size: int = 8,
    classification_batch_size: int = 20,
    classification_threshold: float = 0.6,
) -> Pipeline:
    """Read the networks of a pipeline and put them onto `device`.

    Args:
        spec: what it is made of.
        device: where the networks run.
        localization_batch_size, classification_batch_size: most images, crops per pass of a network.
            On a CPU 1 or 2 images are fastest: 8 take twice as long per image, as they leave the cache.
        classification_threshold: for stages without a threshold of their own. A finer label whose score is
            below it is posted all the same, but is not terminal: the coarser label (moth) is. No detection is
            dropped. The coarsest label counts whatever its score, so `moth_binary` does not depend on it.

    Raises:
        ModelError: a file of the user's cannot be used.
        ValueError: a batch size below 1 or a threshold outside 0 to 1.
    """
    if localization_batch_size < 1 or classification_batch_size < 1:
        raise ValueError(
            f"batch sizes {localization_batch_size}, {classification_batch_size}: each is at least 1"
        )
    if not 0 <= classification_threshold <= 1:
        raise ValueError(f"classification_threshold {classification_threshold} is outside 0 to 1")
    stages = [
        Stage(
            _classifier(stage, device, classification_batch_size),
            stage.algorithm,
            stage.follows,
            classification_threshold if stage.threshold is None else stage.threshold,
        )
        for stage in spec.stages
    ]
    detector = _detector(spec.detector, device, localization_batch_size)
    return Pipeline(spec.slug, device, detector, spec.detector.algorithm, stages)


def weights_file(algorithm: Algorithm) -> Path:
    """Where the state of an algorithm's network lies in the package: half precision, a few hundred kB."""
    return WEIGHTS / f"{algorithm.key}.pt"


def _detector(spec: DetectorSpec, device: torch.device, batch_size: int) -> Locator:
    if spec.file is not None:
        return file_detector(spec.file, spec.threshold, device, batch_size)
    return Detector(_with_weights(DetectorNet(), spec.algorithm), device, batch_size)


def _classifier(spec: StageSpec, device: torch.device, batch_size: int) -> Classifier:
    if spec.file is not None:
        return file_classifier(spec.file, spec.algorithm, device, batch_size)
    network = fused(_with_weights(CropNet(len(spec.algorithm.labels)), spec.algorithm)).to(device)
    return Classifier(network, normalise, CROP_SIDE, batch_size)


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
