"""The calls of ANTENNA_API.md over HTTP: every one with a time limit, every failure typed."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import requests
from requests.auth import AuthBase

from worker.antenna.retry_after import retry_after_s
from worker.antenna.schemas import (
    BadAnswerError,
    CutAnswerError,
    ForeignAnswerError,
    Job,
    Project,
    RefusedContentError,
    Task,
    UnauthorizedError,
    UnavailableError,
    parse_jobs,
    parse_projects,
    parse_queued,
    parse_tasks,
)
from worker.deadline import deadline, is_over
from worker.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, cause, innermost, new_session, proxies_for

LATER = frozenset({408, 425, 429})
CONTENT = frozenset({400, 413, 422})
# Final where the API says so, as JSON or without a word. A proxy says them as a page too, when the server behind it
# is started anew (404), when it takes offence (403), or before the server has its settings (400).
NOT_BY_PROXIES = frozenset({400, 401, 403, 404, 405, 410})

CALL_LIMIT_S = READ_TIMEOUT_S
SHORTEST_LIMIT_S = 5.0
LONGEST_BODY = 64 * 1024**2

_PIECE = 64 * 1024
_NO_JSON = object()


def call_limit_s(visibility_s: float) -> float:
    """How long a call may take, in seconds: half of the visibility time at most, so that what it reserves can
    still be answered in time. `visibility_s`: 0 for none."""
    return min(CALL_LIMIT_S, max(SHORTEST_LIMIT_S, visibility_s / 2)) if visibility_s else CALL_LIMIT_S


class _Token(AuthBase):
    """The Authorization header. As `auth` it also keeps a .netrc from replacing it."""

    def __init__(self, token: str) -> None:
        self._header = f"Token {token}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


class AntennaClient:
    """One Antenna server as one worker sees it. May be used by several threads: each has its own session.

    Every method raises `UnauthorizedError`, `UnavailableError` or `BadAnswerError` (of which
    `RefusedContentError` is one), and nothing else for what the server or the network does. None takes longer
    than `limit_s` seconds in all, but for looking up and connecting (`worker.deadline`). Where the server asks
    to be left alone, what comes too early fails at once, without a request.
    """

    def __init__(self, base_url: str, token: str, *, limit_s: float = CALL_LIMIT_S) -> None:
        self.base_url = base_url.rstrip("/")
        self.limit_s = limit_s
        self._token = _Token(token)
        self._proxies = proxies_for(self.base_url)
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()
        # By call: until when (CLOCK_MONOTONIC, seconds) the server asked to be left alone, and in which words.
        self._quiet: dict[str, tuple[float, UnavailableError]] = {}

    def jobs(self, pipelines: Sequence[str]) -> list[Job]:
        """The jobs that wait for one of `pipelines`. One call of this is one poll."""
        query = {
            "pipeline__slug__in": ",".join(pipelines),
            "ids_only": "1",
            "incomplete_only": "1",
            "dispatch_mode": "async_api",
        }
        with self._heeding("jobs"):
            return parse_jobs(self._call("GET", "/jobs", query=query))

    def reserve(self, job_id: int, count: int) -> list[Task]:
        """Reserve up to `count` tasks of a job. An empty list means that there is nothing to hand out now."""
        body = {"batch_size": count}
        with self._heeding("tasks"):
            # Not twice: what the first call took would be left to redelivery.
            return parse_tasks(self._call("POST", f"/jobs/{job_id}/tasks/", body=body, again=False))

    def post_results(
        self, job_id: int, results: Sequence[Mapping[str, Any]], limit_s: float | None = None
    ) -> int | None:
        """Post results, each `{"reply_subject", "result"}`. Returns how many the server says it took.

        The same results may be posted again: a server that has them already has lost nothing. What is no
        answer of this API (a page of whatever stands before the server) is no acceptance: `UnavailableError`.
        """
        body = {"results": list(results)}
        try:
            return parse_queued(self._call("POST", f"/jobs/{job_id}/result/", body=body, limit_s=limit_s))
        except CutAnswerError:
            # Taken all the same: posted again, every task would be answered twice.
            return None
        except ForeignAnswerError as e:
            raise UnavailableError(str(e), status=e.status, sent=True) from e

    def projects(self) -> list[Project]:
        """The projects that this worker may register its pipelines with."""
        return parse_projects(self._call("GET", "/projects/", limit_s=CALL_LIMIT_S))

    def register(
        self, project_id: int, service_name: str, pipelines: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Register pipelines with a project. Returns the server's answer."""
        body = {"processing_service_name": service_name, "pipelines": list(pipelines)}
        path = f"/projects/{project_id}/pipelines/"
        answer = self._call("POST", path, body=body, limit_s=CALL_LIMIT_S, again=False)
        if not isinstance(answer, Mapping):
            raise BadAnswerError("the registration: not an object")
        return answer

    def leave(self) -> None:
        """Close the calling thread's connections; a thread that ends calls this."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is not None:
            del self._local.session
            with self._lock:
                self._sessions = [s for s in self._sessions if s is not session]
            session.close()

    def close(self) -> None:
        """Close every connection, of every thread. None of them may be in a call."""
        with self._lock:
            sessions, self._sessions = self._sessions, []
        for session in sessions:
            session.close()
        self._local = threading.local()

    @contextmanager
    def _heeding(self, call: str) -> Iterator[None]:
        until, error = self._quiet.get(call, (0.0, None))
        left = until - time.monotonic()
        if error is not None and left > 0:
            raise UnavailableError(str(error), retry_after_s=left, status=error.status) from error
        try:
            yield
        except UnavailableError as e:
            if e.retry_after_s is not None:
                self._quiet[call] = (time.monotonic() + e.retry_after_s, e)
            raise

    def _call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        limit_s: float | None = None,
        again: bool = True,
    ) -> Any:
        """`again`: once more, where the server hung up before it answered, as it does with a connection that has
        rested for too long, or when it is started anew."""
        limit = self.limit_s if limit_s is None else limit_s
        send = partial(
            self._session().request,
            method,
            self.base_url + path,
            params=query,
            json=body,
            timeout=(min(CONNECT_TIMEOUT_S, limit), limit),
            proxies=self._proxies,
            # Django answers GET /jobs with a redirect to /jobs/; a redirected POST would become a GET.
            allow_redirects=method == "GET",
            # The status is worth something even where the body fails.
            stream=True,
        )
        with deadline(limit):
            try:
                try:
                    response = send()
                except OSError as e:
                    if not (again and _hung_up(e)):
                        raise
                    response = send()
            except requests.exceptions.InvalidJSONError as e:
                # An OSError too, though no network is to blame: a number that is not finite.
                raise RefusedContentError(f"{method} {path}: cannot be sent: {cause(e)}") from e
            except OSError as e:
                # requests' own errors are OSErrors; a missing CA bundle or EMFILE may come bare.
                sent = is_over() or _hung_up(e) or isinstance(e, requests.ReadTimeout)
                raise UnavailableError(f"{method} {path}: {_why(e, limit)}", sent=sent) from e
            with response:
                return self._answer(response, f"{method} {path}", limit)

    def _answer(self, response: requests.Response, call: str, limit_s: float) -> Any:
        status = response.status_code
        said = f"{call}: {status} {response.reason}"
        try:
            # Read in any case, so that the connection is kept for the next call.
            body = _body(response, call)
        except OSError as e:
            if response.ok:
                raise CutAnswerError(f"{call}: {_why(e, limit_s)}") from e
            body = b""
        said_in_json = _parsed(body)
        if status in NOT_BY_PROXIES and body and said_in_json is _NO_JSON:
            raise ForeignAnswerError(f"{said}, and no answer of the API", status=status)
        if status in (401, 403):
            raise UnauthorizedError(said)
        if status >= 500 or status in LATER:
            asked = retry_after_s(response.headers)
            raise UnavailableError(said, retry_after_s=asked, status=status, sent=True)
        if status in CONTENT:
            raise RefusedContentError(f"{said} {_detail(said_in_json)}".rstrip())
        if 300 <= status < 400:
            raise ForeignAnswerError(said)
        if not 200 <= status < 300:
            raise BadAnswerError(f"{said} {_detail(said_in_json)}".rstrip())
        if not body:
            return None
        if said_in_json is _NO_JSON:
            raise ForeignAnswerError(f"{call}: the answer is not JSON")
        return said_in_json

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = new_session(connections=1)
            session.auth = self._token
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def _body(response: requests.Response, call: str) -> bytes:
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > LONGEST_BODY:
            raise ForeignAnswerError(f"{call}: an answer of more than {LONGEST_BODY} bytes")
    return bytes(body)


def _parsed(body: bytes) -> Any:
    """What a body says; `_NO_JSON` where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _NO_JSON


def _hung_up(error: OSError) -> bool:
    return isinstance(innermost(error), ConnectionResetError | BrokenPipeError | ssl.SSLEOFError)


def _why(error: OSError, limit_s: float) -> str:
    return f"no whole answer within {limit_s:g} s" if is_over() else cause(error)


def _detail(said: Any) -> str:
    """What Django REST says of a refused request, shortened; empty where it says nothing of the kind."""
    return f"({said['detail']!s:.200})" if isinstance(said, Mapping) and "detail" in said else ""
