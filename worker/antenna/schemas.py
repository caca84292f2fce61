"""What the Antenna API sends and takes (ANTENNA_API.md), checked where it enters the worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


class AntennaError(Exception):
    """A call to the Antenna API that did not do what it should."""


class UnauthorizedError(AntennaError):
    """The server refused this worker (401 or 403)."""


class UnavailableError(AntennaError):
    """No usable connection, a time-out, 408, 429 or 5xx: the same call may succeed later.

    `retry_after_s`: so long the server asked not to be asked again, in seconds; None where it did not say.
    `status`: of the answer; None where there was none. `sent`: whether the request had gone out when it failed.
    """

    def __init__(
        self,
        text: str,
        *,
        retry_after_s: float | None = None,
        status: int | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        self.status = status
        self.sent = sent


class CutAnswerError(UnavailableError):
    """The status said that the call succeeded, but the body did not come whole."""


class BadAnswerError(AntennaError):
    """The server answered, but not as ANTENNA_API.md says; the same call will not do better."""


class ForeignAnswerError(BadAnswerError):
    """What answered does not speak this API at all: a redirect, a page, a body without an end.

    `status`: of the answer, where it was an error of its own.
    """

    def __init__(self, text: str, *, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class RefusedContentError(BadAnswerError):
    """What was sent cannot be taken (400, 413, 422, or no JSON can say it); less or other may be."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that the server lists."""

    id: int
    pipeline_slug: str


@dataclass(frozen=True, slots=True)
class Task:
    """One image to work on. `reply_subject` names this delivery; a redelivery has another one."""

    id: str
    image_id: str
    image_url: str
    reply_subject: str | None


@dataclass(frozen=True, slots=True)
class Project:
    """A project whose pipelines may be registered."""

    id: int
    name: str


def parse_jobs(body: Any) -> list[Job]:
    """`GET /jobs`.

    Raises:
        BadAnswerError: as every parser here, when the body has another shape.
    """
    return [
        Job(_int(one, "id", "a job"), _text(one, "pipeline_slug", "a job"))
        for one in _objects(body, "results", "the jobs")
    ]


def parse_tasks(body: Any) -> list[Task]:
    """`POST /jobs/{id}/tasks/`."""
    return [
        Task(
            id=_text(one, "id", "a task"),
            image_id=_text(one, "image_id", "a task"),
            image_url=_text(one, "image_url", "a task"),
            reply_subject=None if one.get("reply_subject") is None else str(one["reply_subject"]),
        )
        for one in _objects(body, "tasks", "the tasks")
    ]


def parse_projects(body: Any) -> list[Project]:
    """`GET /projects/`."""
    return [
        Project(_int(one, "id", "a project"), str(one.get("name") or ""))
        for one in _objects(body, "results", "the projects")
    ]


def parse_queued(body: Any) -> int | None:
    """`POST /jobs/{id}/result/`: how many results the server took, None where it does not say."""
    queued = body.get("results_queued") if isinstance(body, Mapping) else None
    return queued if isinstance(queued, int) and not isinstance(queued, bool) else None


def _objects(body: Any, key: str, what: str) -> Iterable[Mapping[str, Any]]:
    items = body.get(key) if isinstance(body, Mapping) else None
    if not isinstance(items, list) or not all(isinstance(i, Mapping) for i in items):
        raise BadAnswerError(f"{what}: no list of objects under {key!r}")
    return items


def _int(one: Mapping[str, Any], key: str, what: str) -> int:
    value = one.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadAnswerError(f"{what}: {key!r} is {value!r}, not a whole number")
    return value


def _text(one: Mapping[str, Any], key: str, what: str) -> str:
    value = one.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadAnswerError(f"{what}: {key!r} is {value!r}, not text")
    return str(value)
