"""The calls of ANTENNA_API.md and the images: which request reaches what, and what it is answered.

Order of the checks: the path (404), the method (405), the token (401), the lock-step gate, armed
faults, the body or query (400), the ids in the path (404).
"""

from __future__ import annotations

import itertools
import math
import re
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from amidiag.soak.antenna.image_store import read_image
from amidiag.soak.antenna.messages import Request, Response, error_response, json_response
from amidiag.soak.antenna.parts import Parts
from amidiag.soak.antenna.poll_gate import ClientGoneError
from amidiag.soak.antenna.schemas import InvalidError, JobsQuery, batch_size, posted_results, registration
from amidiag.soak.antenna.task_queue import UnknownJobError
from amidiag.soak.antenna.words import ANSWER_KINDS, STATUS_KINDS, FaultSpec, Route

_IMAGE_PATH = "/images/"
_STATUS_FAULTS: dict[str, str] = {
    "503": "Service Unavailable",
    "401": "Invalid token.",
    "404": "Not found.",
    "429": "Request was throttled.",
}


class _NotFoundError(LookupError):
    """The path names something that is not there."""


class _Route(NamedTuple):
    """`method` is the one that this path takes; `path` has at most one group, the id."""

    name: Route
    method: str
    path: re.Pattern[str]
    needs_token: bool


# Django answers these with and without the last slash; for a POST the client must get it right,
# which is none of a leak's business: both are taken.
_ROUTES = (
    _Route("jobs", "GET", re.compile(r"/api/v2/jobs/?"), True),
    _Route("tasks", "POST", re.compile(r"/api/v2/jobs/([^/]+)/tasks/?"), True),
    _Route("result", "POST", re.compile(r"/api/v2/jobs/([^/]+)/result/?"), True),
    _Route("projects", "GET", re.compile(r"/api/v2/projects/?"), True),
    _Route("pipelines", "POST", re.compile(r"/api/v2/projects/([^/]+)/pipelines/?"), True),
    # Images lie on a public object store, not on the API: no token.
    _Route("images", "GET", re.compile(r"/images/([^/.]+)(?:\.\w+)?"), False),
)


class Calls:
    """Answers requests. `origin` gives scheme, host and port for image URLs. Thread-safe."""

    def __init__(self, parts: Parts, origin: Callable[[], str]) -> None:
        self._authorization = f"Token {parts.config.token}"
        self._projects = parts.config.projects
        self._queue = parts.queue
        self._board = parts.board
        self._images = parts.images
        self._gate = parts.gate
        self._faults = parts.faults
        self._registry = parts.registry
        self._meter = parts.meter
        self._origin = origin
        self._posted = itertools.count(1)
        self._answer: dict[Route, Callable[[Request, str], Response]] = {
            "tasks": self._tasks,
            "result": self._result,
            "projects": self._list_projects,
            "pipelines": self._register,
            "images": self._image,
        }

    def answer(self, request: Request) -> Response:
        """Raises only ClientGoneError: the client of a held poll has gone away."""
        route, identifier = _resolve(request.path)
        if route is None:
            response, call = error_response(404, f"Not found: {request.path}"), "other"
        else:
            response, call = self._answer_safely(route, identifier, request), f"{route.method} {route.name}"
        self._meter.request(call, response.status, len(request.body), len(response.body))
        return response

    def _answer_safely(self, route: _Route, identifier: str, request: Request) -> Response:
        try:
            return self._answer_route(route, identifier, request)
        except ClientGoneError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug here must be seen and counted as a 500
            traceback.print_exc()
            return error_response(500, f"{type(error).__name__}: {error}")

    def _answer_route(self, route: _Route, identifier: str, request: Request) -> Response:
        if refused := _refuse_method(route, request.method) or self._refuse_token(route, request):
            return refused
        jobs = self._gate.enter(request.connection) if route.name == "jobs" else None
        if fault := self._faults.meet(route.name, STATUS_KINDS):
            later = {"Retry-After": str(math.ceil(fault.seconds))} if fault.seconds else None
            return error_response(int(fault.kind), _STATUS_FAULTS[fault.kind], later)
        try:
            if route.name == "jobs":
                response = self._list_jobs(request, jobs)
            else:
                response = self._answer[route.name](request, identifier)
        except InvalidError as error:
            return error_response(400, str(error))
        except (UnknownJobError, _NotFoundError) as error:
            return error_response(404, f"Not found: {error}")
        if fault := self._faults.meet(route.name, ANSWER_KINDS):
            return _spoilt(response, fault)
        return response

    def _refuse_token(self, route: _Route, request: Request) -> Response | None:
        headers = {"WWW-Authenticate": "Token"}
        if not route.needs_token:
            return None
        if request.authorization is None:
            return error_response(401, "Authentication credentials were not provided.", headers)
        if request.authorization != self._authorization:
            return error_response(401, "Invalid token.", headers)
        return None

    def _list_jobs(self, request: Request, exactly: tuple[int, ...] | None) -> Response:
        found = self._board.find(JobsQuery(request.query), exactly)
        return json_response(200, {"results": [{"id": i, "pipeline_slug": slug} for i, slug in found]})

    def _tasks(self, request: Request, identifier: str) -> Response:
        deliveries = self._queue.reserve(_number(identifier), batch_size(request.body))
        tasks = [
            {
                "id": delivery.task_id,
                "image_id": delivery.image_id,
                "image_url": self._image_url(delivery.image_id),
                "reply_subject": delivery.reply_subject,
            }
            for delivery in deliveries
        ]
        subjects = [delivery.reply_subject for delivery in deliveries]
        response = json_response(200, {"tasks": tasks})
        return replace(response, unheard=lambda: self._queue.unheard(subjects))

    def _image_url(self, image_id: str) -> str:
        spec = self._images.spec(image_id)
        suffix = "png" if spec is not None and spec.trap.format == "png" else "jpg"
        return f"{self._origin()}{_IMAGE_PATH}{image_id}.{suffix}"

    def _result(self, request: Request, identifier: str) -> Response:
        job_id = _number(identifier)
        self._board.check([job_id])
        accepted = []
        for posted in posted_results(request.body):
            # An unknown reply subject is taken like any other, as the real server does: it is only
            # counted, and the worker cannot see it.
            self._queue.answer(job_id, posted.reply_subject, posted.result)
            task_id = f"saved-{next(self._posted)}"
            accepted.append({"reply_subject": posted.reply_subject, "status": "queued", "task_id": task_id})
        value = {"status": "accepted", "job_id": job_id, "results_queued": len(accepted), "tasks": accepted}
        return json_response(200, value)

    def _list_projects(self, _request: Request, _identifier: str) -> Response:
        listed = [{"id": number, "name": name} for number, name in enumerate(self._projects, start=1)]
        return json_response(200, {"results": listed})

    def _register(self, request: Request, identifier: str) -> Response:
        project_id = _number(identifier)
        if not 1 <= project_id <= len(self._projects):
            raise _NotFoundError(f"no project has the id {identifier}")
        service, pipelines = registration(request.body)
        service_id, created, updated = self._registry.register(project_id, service, pipelines)
        value = {
            "pipelines_created": created,
            "pipelines_updated": updated,
            "processing_service_id": service_id,
        }
        return json_response(201, value)

    def _image(self, _request: Request, identifier: str) -> Response:
        spec = self._images.spec(identifier)
        if spec is None or spec.missing:
            raise _NotFoundError(f"no image has the id {identifier}")
        file = self._images.file(spec.trap) if spec.path is None else read_image(spec.path, spec.trap)
        return Response(200, file.data, file.content_type, slow_s=spec.slow_s, cut=spec.cut)


def _spoilt(response: Response, fault: FaultSpec) -> Response:
    kind, seconds = fault.kind, fault.seconds
    return replace(
        response,
        slow_s=seconds if kind == "slow" else 0.0,
        cut=kind == "cut",
        reset=kind == "reset",
        stall_s=0.0 if kind == "slow" else seconds,
        unanswered=kind == "half-closed",
    )


def _resolve(path: str) -> tuple[_Route | None, str]:
    for route in _ROUTES:
        if match := route.path.fullmatch(path):
            return route, match[1] if match.re.groups else ""
    return None, ""


def _refuse_method(route: _Route, method: str) -> Response | None:
    # HEAD is a GET whose body stays at home.
    if method == route.method or (method, route.method) == ("HEAD", "GET"):
        return None
    return error_response(405, f'Method "{method}" not allowed.', {"Allow": route.method})


def _number(identifier: str) -> int:
    if not (identifier.isascii() and identifier.isdigit() and len(identifier) < 19):
        raise _NotFoundError(f"{identifier!r} is no id")
    return int(identifier)
