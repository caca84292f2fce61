"""A batch to answers: one for every task, a result or an error."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from worker.antenna.posting import Answer
from worker.antenna.schemas import Task
from worker.ingest.batch import Batch
from worker.pipelines import Detection, Pipeline
from worker.pipelines.device import device_error, empty_device_cache, is_out_of_memory
from worker.pipelines.passes import PassSize, PassSizes

log = logging.getLogger(__name__)

HOST = torch.device("cpu")

Found = list[Detection] | str


@dataclass(frozen=True, slots=True)
class _Failed:
    """A pass without a result. Not the error itself: that would keep alive what is on the device."""

    text: str
    no_memory: bool


def answer(
    batch: Batch,
    pipeline: Callable[[], Pipeline],
    device: torch.device,
    sizes: PassSizes | None = None,
) -> list[Answer]:
    """Answer every task of `batch`. `pipeline` is asked for only if there is an image to work on.

    `sizes` keeps from batch to batch how many images the device has memory for.

    Raises:
        DeviceError: the device does not work any more; nothing of the batch is answered.
        ModelError: the pipeline is one of the user's, and its files cannot be used any more.
    """
    answers = [_error(f.task, f.error) for f in batch.failures]
    if not batch.tasks:
        return answers
    try:
        return answers + _worked(batch, pipeline(), device, sizes or PassSizes())
    except RuntimeError as e:
        broken = device_error(e)
        if broken is None:
            raise
        raise broken from e


def detect(pipeline: Pipeline, images: list[torch.Tensor], size: PassSize | None = None) -> list[Found]:
    """What the pipeline finds in each image, or why it failed on it.

    Where the device has too little memory, half as many images are tried at once, down to one, and `size` keeps
    that. Then those of `images` that are on the device are moved to host memory. Where a pass fails for another
    reason, each image is tried alone, so that one does not take the others with it.

    Raises:
        DeviceError: the device does not work any more.
    """
    size = size or PassSize()
    found: list[Found] = []
    while len(found) < len(images):
        part = images[len(found) : len(found) + size.most(len(images) - len(found))]
        outcome = _pass(pipeline, part)
        if not isinstance(outcome, _Failed):
            size.worked(len(part))
            found.extend(outcome)
        elif len(part) == 1:
            found.append(f"the pipeline failed on this image: {outcome.text}")
        elif outcome.no_memory:
            size.failed(len(part))
            log.warning(
                "%s: too little memory on the device for %s images at once, now %s: %s",
                pipeline.slug,
                len(part),
                size.limit,
                outcome.text,
            )
        else:
            found.extend(_each_alone(pipeline, part))
        if isinstance(outcome, _Failed) and outcome.no_memory:
            # Before the memory is given back: the pixels of what is done and of what waits are on the device too.
            del part
            images[:] = [image.to(HOST) for image in images]
            empty_device_cache()
    return found


def _worked(batch: Batch, pipeline: Pipeline, device: torch.device, sizes: PassSizes) -> list[Answer]:
    size = sizes.of(pipeline.slug)
    started = time.monotonic()
    found = detect(pipeline, _images(batch, device, size), size)
    share = (time.monotonic() - started) / len(batch.tasks)
    answers = []
    for task, outcome in zip(batch.tasks, found, strict=True):
        if isinstance(outcome, str):
            answers.append(_error(task, outcome))
        elif not all(map(_is_finite, outcome)):
            answers.append(_error(task, "the pipeline found numbers in this image that are not finite"))
        else:
            answers.append(Answer(task.id, _result(task, pipeline.slug, outcome, share)))
    return answers


def _images(batch: Batch, device: torch.device, size: PassSize) -> list[torch.Tensor]:
    """The images, moved to the device at once, unless it has no memory for all: then each pass moves its own."""
    if size.most(len(batch.tasks)) == len(batch.tasks):
        try:
            return batch.images(device)
        except RuntimeError as e:
            if not is_out_of_memory(e):
                raise
            log.warning(
                "too little memory on the device for the %s images of a batch: %s", len(batch.tasks), e
            )
        size.failed(len(batch.tasks))
        empty_device_cache()
    return batch.images(HOST)


def _each_alone(pipeline: Pipeline, images: Sequence[torch.Tensor]) -> list[Found]:
    found: list[Found] = []
    for image in images:
        outcome = _pass(pipeline, [image])
        if isinstance(outcome, _Failed):
            found.append(f"the pipeline failed on this image: {outcome.text}")
        else:
            found.extend(outcome)
    return found


def _pass(pipeline: Pipeline, images: Sequence[torch.Tensor]) -> list[list[Detection]] | _Failed:
    """One pass through the pipeline. What it raised is gone when this returns, and so is what that kept alive."""
    try:
        found = pipeline.process(images)
    except Exception as e:
        broken = device_error(e)
        if broken is not None:
            raise broken from e
        no_memory = is_out_of_memory(e)
        if not no_memory and len(images) > 1:
            log.exception("%s failed on %s images: each is tried alone", pipeline.slug, len(images))
        return _Failed(f"{type(e).__name__}: {e}", no_memory)
    if len(found) != len(images):
        return _Failed(f"{len(found)} answers for {len(images)} images", no_memory=False)
    return list(found)


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
