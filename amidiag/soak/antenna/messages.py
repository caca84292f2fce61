"""An HTTP request and its answer, as the calls see them: no sockets."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """`connection` is the FD of the socket that the request came by."""

    method: str
    path: str
    query: str
    authorization: str | None
    body: bytes
    connection: int


@dataclass(frozen=True, slots=True)
class Response:
    """`slow_s` spreads the body over so many seconds, `cut` ends the connection after half of it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0
    cut: bool = False


def json_response(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value, separators=(",", ":")).encode(), headers=headers or {})


def error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as the real server writes it: `{"detail": text}`."""
    return json_response(status, {"detail": detail}, headers)
