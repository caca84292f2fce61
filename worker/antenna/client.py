"""The calls of ANTENNA_API.md over HTTP: every one with a time limit, every failure typed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import requests
from requests.auth import AuthBase

from worker.antenna.schemas import (
    BadAnswerError,
    CutAnswerError,
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
from worker.http import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, cause, new_session, proxies_for

LATER = frozenset({408, 425, 429})
CONTENT = frozenset({400, 413, 422})


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
    `RefusedContentError` is one), and nothing else for what the server or the network does.
    """

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._token = _Token(token)
        self._proxies = proxies_for(self.base_url)
        self._timeout = (connect_timeout_s, read_timeout_s)
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def jobs(self, pipelines: Sequence[str]) -> list[Job]:
        """The jobs that wait for one of `pipelines`. One call of this is one poll."""
        query = {
            "pipeline__slug__in": ",".join(pipelines),
            "ids_only": "1",
            "incomplete_only": "1",
            "dispatch_mode": "async_api",
        }
        return parse_jobs(self._call("GET", "/jobs", query=query))

    def reserve(self, job_id: int, count: int) -> list[Task]:
        """Reserve up to `count` tasks of a job. An empty list means that there is nothing to hand out now."""
        return parse_tasks(self._call("POST", f"/jobs/{job_id}/tasks/", body={"batch_size": count}))

    def post_results(self, job_id: int, results: Sequence[Mapping[str, Any]]) -> int | None:
        """Post results, each `{"reply_subject", "result"}`. Returns how many the server says it took."""
        body = {"results": list(results)}
        try:
            return parse_queued(self._call("POST", f"/jobs/{job_id}/result/", body=body))
        except CutAnswerError:
            # Taken all the same: posted again, every task would be answered twice.
            return None

    def projects(self) -> list[Project]:
        """The projects that this worker may register its pipelines with."""
        return parse_projects(self._call("GET", "/projects/"))

    def register(
        self, project_id: int, service_name: str, pipelines: Sequence[Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """Register pipelines with a project. Returns the server's answer."""
        body = {"processing_service_name": service_name, "pipelines": list(pipelines)}
        answer = self._call("POST", f"/projects/{project_id}/pipelines/", body=body)
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

    def _call(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None
    ) -> Any:
        try:
            response = self._session().request(
                method,
                self.base_url + path,
                params=query,
                json=body,
                timeout=self._timeout,
                proxies=self._proxies,
                # Django answers GET /jobs with a redirect to /jobs/; a redirected POST would become a GET.
                allow_redirects=method == "GET",
                # The status is worth something even where the body fails.
                stream=True,
            )
        except requests.exceptions.InvalidJSONError as e:
            # An OSError too, though no network is to blame: a number that is not finite.
            raise RefusedContentError(f"{method} {path}: cannot be sent: {cause(e)}") from e
        except OSError as e:
            # requests' own errors are OSErrors; a missing CA bundle or EMFILE may come bare.
            raise UnavailableError(f"{method} {path}: {cause(e)}") from e
        with response:
            self._check(response, f"{method} {path}")
            try:
                return response.json()
            except requests.JSONDecodeError as e:
                raise BadAnswerError(f"{method} {path}: the answer is not JSON") from e
            except OSError as e:
                raise CutAnswerError(f"{method} {path}: {cause(e)}") from e

    def _check(self, response: requests.Response, call: str) -> None:
        status = response.status_code
        said = f"{call}: {status} {response.reason}"
        with suppress(OSError):
            # Read, so that the connection is kept for the next try.
            _ = response.ok or response.content
        if status in (401, 403):
            raise UnauthorizedError(said)
        if status >= 500 or status in LATER:
            raise UnavailableError(said)
        if not 200 <= status < 300:
            kind = RefusedContentError if status in CONTENT else BadAnswerError
            raise kind(f"{said} {_detail(response)}".rstrip())

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = new_session(connections=1)
            session.auth = self._token
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def _detail(response: requests.Response) -> str:
    """What Django REST says of a refused request, shortened; empty where it says nothing of the kind."""
    try:
        body = response.json()
    except requests.RequestException:
        return ""
    return f"({body['detail']!s:.200})" if isinstance(body, Mapping) and "detail" in body else ""
