"""How well detections agree with what was planted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amidiag.soak.traps.spec import KIND_OF_SPECIES, Kind, PlantedInsect

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement over many images.

    Attributes:
        precision: matched / found; None where nothing was found.
        recall: matched / planted; None where nothing was planted.
        kind_accuracy: share of the matched detections whose kind is right; None without a match.
        planted, found, matched: insects planted, detections given, pairs at the wanted IoU.
    """

    precision: float | None
    recall: float | None
    kind_accuracy: float | None
    planted: int
    found: int
    matched: int


def score(
    pairs: Iterable[tuple[Sequence[PlantedInsect], Sequence[Mapping[str, Any]]]], *, iou_wanted: float = 0.5
) -> Score:
    """Compare the truth of each image with its detections (the `D` of ANTENNA_API.md).

    Matching is one to one and greedy: the pair of greatest IoU first. A box that is no box
    (a missing key, not a number) raises KeyError, TypeError or ValueError: a wrong answer of
    the worker shall not pass as a missed insect.
    """
    planted = found = matched = right = 0
    for truth, detections in pairs:
        planted += len(truth)
        found += len(detections)
        boxes = [_box(detection) for detection in detections]
        for of_truth, of_found in _match([insect.bbox for insect in truth], boxes, iou_wanted):
            matched += 1
            right += truth[of_truth].kind == kind_of(detections[of_found])
    return Score(
        precision=matched / found if found else None,
        recall=matched / planted if planted else None,
        kind_accuracy=right / matched if matched else None,
        planted=planted,
        found=found,
        matched=matched,
    )


def kind_of(detection: Mapping[str, Any]) -> Kind | None:
    """The kind that a detection claims: of its terminal classification, else of its first; else None."""
    classifications = detection.get("classifications") or ()
    terminal = [c for c in classifications if c.get("terminal")]
    for classification in (*terminal, *classifications):
        label = str(classification["classification"])
        if label == "moth":
            return "moth"
        if label == "nonmoth":
            return "nonmoth"
        if label in KIND_OF_SPECIES:
            return KIND_OF_SPECIES[label]
    return None


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two (x1, y1, x2, y2); 0 for boxes without area."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _box(detection: Mapping[str, Any]) -> Box:
    bbox = detection["bbox"]
    box = (float(bbox["x1"]), float(bbox["y1"]), float(bbox["x2"]), float(bbox["y2"]))
    if not all(math.isfinite(value) for value in box):
        raise ValueError(f"bbox {box} is not finite")
    return box


def _match(truth: Sequence[Box], found: Sequence[Box], wanted: float) -> list[tuple[int, int]]:
    overlaps = [(iou(t, f), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)]
    pairs: list[tuple[int, int]] = []
    used_truth: set[int] = set()
    used_found: set[int] = set()
    for overlap, i, j in sorted(overlaps, key=lambda entry: (-entry[0], entry[1], entry[2])):
        if overlap < wanted:
            break
        if i not in used_truth and j not in used_found:
            used_truth.add(i)
            used_found.add(j)
            pairs.append((i, j))
    return pairs
