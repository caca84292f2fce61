"""What a pipeline is made of, as data: its networks, the files they lie in, and which follows which.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.pipelines.detection import Algorithm

RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scaling:
    """What a network is fed: `(value - mean) / std` for each channel of a pixel's values 0 to 255."""

    mean: RGB
    std: RGB

    @staticmethod
    def to_range(low: float, high: float) -> Scaling:
        """0 to 255 becomes `low` to `high`, for every channel."""
        std = 255 / (high - low)
        return Scaling((-low * std,) * 3, (std,) * 3)

    @staticmethod
    def to_unit_normal(mean: Sequence[float], std: Sequence[float]) -> Scaling:
        """As torchvision's `Normalize` after `ToTensor`: mean and std of values 0 to 1."""
        red, green, blue = (255 * value for value in mean)
        of_red, of_green, of_blue = (255 * value for value in std)
        return Scaling((red, green, blue), (of_red, of_green, of_blue))


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A TorchScript or torch.export file of the user. `sha256`: what it must be, in lower case, or None.

    `height`, `width`: of its input, in pixels.
    """

    path: Path
    sha256: str | None
    height: int
    width: int
    scaling: Scaling


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """What finds the insects. Without a `file` it is the built-in network of that `algorithm`.

    `threshold`: lowest score of a box, 0 to 1; only with a file.
    """

    algorithm: Algorithm
    file: ModelFile | None = None
    threshold: float = 0.5


@dataclass(frozen=True, slots=True)
class Follows:
    """Which crops a finer classifier names: those to which stage number `stage` has given `label`."""

    stage: int
    label: str


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One classifier. The first stage of a pipeline is the coarse one: it names every crop and `follows` none.

    `threshold`: lowest score at which a label of a finer stage counts; None: `AMI_CLASSIFICATION_THRESHOLD`.
    """

    algorithm: Algorithm
    file: ModelFile | None = None
    follows: Follows | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """A pipeline. `manifest`: the user's file that describes it; None where it is built in."""

    slug: str
    name: str
    description: str
    detector: DetectorSpec
    stages: tuple[StageSpec, ...]
    version: int = 1
    manifest: Path | None = None

    @property
    def algorithms(self) -> tuple[Algorithm, ...]:
        """Its networks in the order in which they run."""
        return (self.detector.algorithm, *(stage.algorithm for stage in self.stages))

    @property
    def files(self) -> tuple[ModelFile, ...]:
        """The user's files that it is made of."""
        files = (self.detector.file, *(stage.file for stage in self.stages))
        return tuple(file for file in files if file is not None)

    def to_api(self) -> dict[str, Any]:
        """The registration of this pipeline (`POST /projects/{id}/pipelines/`)."""
        return {
            "name": self.name,
            "slug": self.slug,
            "version": self.version,
            "description": self.description,
            "algorithms": [algorithm.to_api() for algorithm in self.algorithms],
        }
