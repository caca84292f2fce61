"""The one place where the server's words become JSON objects and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from amidiag.soak.antenna.words import (
    Answer,
    Delivery,
    FaultSpec,
    ImageSpec,
    JobSpec,
    JobState,
    Registration,
    ServerConfig,
    ServerState,
    TaskStory,
)

if TYPE_CHECKING:
    from amidiag.soak.traps import TrapSpec

Json = dict[str, Any]


def encode_config(config: ServerConfig) -> Json:
    return asdict(config)


def decode_config(value: Json) -> ServerConfig:
    return ServerConfig(**{**value, "projects": tuple(value["projects"])})


def encode_job(spec: JobSpec) -> Json:
    images = [image if isinstance(image, ImageSpec) else ImageSpec(image) for image in spec.images]
    return {
        "pipeline": spec.pipeline,
        "images": [asdict(image) for image in images],
        "list_always": spec.list_always,
    }


def decode_job(value: Json) -> JobSpec:
    """Raises what `TrapSpec` raises; imports `amidiag.soak.traps` only for a job that has images."""
    return JobSpec(**{**value, "images": tuple(_decode_image(image) for image in value["images"])})


def encode_fault(spec: FaultSpec) -> Json:
    return asdict(spec)


def decode_fault(value: Json) -> FaultSpec:
    return FaultSpec(**{**value, "on": tuple(value["on"])})


def encode_state(state: ServerState) -> Json:
    return asdict(state)


def decode_state(value: Json) -> ServerState:
    jobs = {int(job_id): JobState(**job) for job_id, job in value["jobs"].items()}
    requests = {
        call: {int(status): count for status, count in statuses.items()}
        for call, statuses in value["requests"].items()
    }
    return ServerState(**{**value, "jobs": jobs, "requests": requests})


def encode_answers(answers: list[Answer]) -> list[Json]:
    return [{**answer._asdict(), "spec": asdict(answer.spec)} for answer in answers]


def decode_answers(value: list[Json]) -> list[Answer]:
    return [Answer(**{**answer, "spec": _decode_trap(answer["spec"])}) for answer in value]


def encode_stories(stories: Sequence[TaskStory]) -> list[Json]:
    return [{**story._asdict(), "deliveries": [d._asdict() for d in story.deliveries]} for story in stories]


def decode_stories(value: list[Json]) -> list[TaskStory]:
    return [
        TaskStory(**{**story, "deliveries": tuple(Delivery(**d) for d in story["deliveries"])})
        for story in value
    ]


def encode_registrations(registered: Mapping[str, Registration]) -> Json:
    return {name: asdict(registration) for name, registration in registered.items()}


def decode_registrations(value: Json) -> dict[str, Registration]:
    return {
        name: Registration(**{**registration, "projects": tuple(registration["projects"])})
        for name, registration in value.items()
    }


def _decode_image(value: Json) -> ImageSpec:
    return ImageSpec(**{**value, "trap": _decode_trap(value["trap"])})


def _decode_trap(value: Json) -> TrapSpec:
    # Not at the top: amidiag must import without numpy, and a job may have no image.
    from amidiag.soak.traps import TrapSpec

    # JSON knows no tuples, and a spec with a list in it could not be hashed.
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
    return TrapSpec(**fields)
