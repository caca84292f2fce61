"""What a pipeline found in an image, and how it is posted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A network of a pipeline, as registered with the Antenna server.

    `labels` are its classes in the order of its scores; empty for a detector.
    """

    name: str
    key: str
    task_type: str
    description: str
    labels: tuple[str, ...] = ()
    version: int = 1

    def reference(self) -> dict[str, str]:
        """How a detection or classification names its algorithm."""
        return {"name": self.name, "key": self.key}

    def to_api(self) -> dict[str, Any]:
        """The registration of this algorithm (`POST /projects/{id}/pipelines/`)."""
        categories = {
            "data": [{"index": index, "label": label} for index, label in enumerate(self.labels)],
            "labels": list(self.labels),
        }
        return {
            "name": self.name,
            "key": self.key,
            "task_type": self.task_type,
            "description": self.description,
            "version": self.version,
            "version_name": str(self.version),
            "category_map": categories if self.labels else None,
        }


@dataclass(frozen=True, slots=True)
class Classification:
    """One label given to a detection.

    `scores` (softmax) and `logits` follow `labels`; `inference_time` is the crop's share of its
    batch in seconds; exactly one classification of a detection is `terminal`.
    """

    label: str
    labels: tuple[str, ...]
    scores: tuple[float, ...]
    logits: tuple[float, ...]
    algorithm: Algorithm
    terminal: bool
    inference_time: float

    def to_api(self, timestamp: str) -> dict[str, Any]:
        return {
            "classification": self.label,
            "labels": list(self.labels),
            "scores": list(self.scores),
            "logits": list(self.logits),
            "inference_time": self.inference_time,
            "algorithm": self.algorithm.reference(),
            "terminal": self.terminal,
            "timestamp": timestamp,
        }


@dataclass(frozen=True, slots=True)
class Detection:
    """An insect: `bbox` is (x1, y1, x2, y2) in pixels of the source image, inside it.

    `score` is the detector's confidence (not part of the API), `inference_time` the image's share
    of its batch in seconds.
    """

    bbox: tuple[float, float, float, float]
    score: float
    algorithm: Algorithm
    inference_time: float
    classifications: tuple[Classification, ...]

    def to_api(self, source_image_id: str, timestamp: str) -> dict[str, Any]:
        """The `D` of ANTENNA_API.md. `timestamp` is ISO 8601."""
        x1, y1, x2, y2 = self.bbox
        return {
            "source_image_id": source_image_id,
            "bbox": {"x1": x1, "y1": y1, "x2": x2, "y2": y2},
            "inference_time": self.inference_time,
            "algorithm": self.algorithm.reference(),
            "timestamp": timestamp,
            "crop_image_url": None,
            "classifications": [classification.to_api(timestamp) for classification in self.classifications],
        }
