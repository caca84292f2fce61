"""A batch to answers: one for every task, a result or an error."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from worker.antenna.posting import Answer
from worker.antenna.schemas import Task
from worker.ingest.batch import Batch
from worker.pipelines import Detection, Pipeline

log = logging.getLogger(__name__)

Found = list[Detection] | str


def answer(batch: Batch, pipeline: Callable[[], Pipeline], device: torch.device) -> list[Answer]:
    """Answer every task of `batch`. `pipeline` is asked for only if there is an image to work on."""
    answers = [_error(f.task, f.error) for f in batch.failures]
    if not batch.tasks:
        return answers
    chosen = pipeline()
    started = time.monotonic()
    found = detect(chosen, batch.images(device))
    share = (time.monotonic() - started) / len(batch.tasks)
    for task, outcome in zip(batch.tasks, found, strict=True):
        if isinstance(outcome, str):
            answers.append(_error(task, outcome))
        elif not all(map(_is_finite, outcome)):
            answers.append(_error(task, "the pipeline found numbers in this image that are not finite"))
        else:
            answers.append(Answer(task.id, _result(task, chosen.slug, outcome, share)))
    return answers


def detect(pipeline: Pipeline, images: Sequence[torch.Tensor]) -> list[Found]:
    """What the pipeline finds in each image, or why it failed on it.

    Where a batch fails as a whole, each image is tried alone, so that one image does not take the others
    with it.
    """
    try:
        return list(pipeline.process(images))
    except Exception:
        log.exception("%s failed on a batch of %s images: each is tried alone", pipeline.slug, len(images))
        if len(images) == 1:
            return ["the pipeline failed on this image"]
    return [_alone(pipeline, image) for image in images]


def _alone(pipeline: Pipeline, image: torch.Tensor) -> Found:
    try:
        return pipeline.process([image])[0]
    except Exception as e:  # noqa: BLE001 - every task gets an answer, whatever torch raised on its image
        return f"the pipeline failed on this image: {type(e).__name__}: {e}"


def _is_finite(detection: Detection) -> bool:
    """JSON has no NaN: one would make the whole post impossible."""
    of_labels = [c.scores + c.logits for c in detection.classifications]
    return all(map(math.isfinite, (*detection.bbox, *itertools.chain(*of_labels))))


def _result(task: Task, slug: str, detections: Sequence[Detection], seconds: float) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {
        "pipeline": slug,
        "total_time": seconds,
        "source_images": [{"id": task.image_id, "url": task.image_url}],
        "detections": [d.to_api(task.image_id, now) for d in detections],
    }


def _error(task: Task, text: str) -> Answer:
    return Answer(task.id, {"error": text, "image_id": task.image_id})
