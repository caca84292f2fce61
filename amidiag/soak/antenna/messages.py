"""An HTTP request and its answer, as the calls see them: no sockets."""

from __future__ import annotations

import json
from collections.abc import Callable
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


def _nobody_minds() -> None:
    """For an answer without an effect."""


@dataclass(frozen=True, slots=True)
class Response:
    """`slow_s` spreads the body over so many seconds, `cut` ends the connection after half of it, `reset` does so by
    an RST. `stall_s` holds the whole answer back; with `unanswered` the server's half ends instead of it, at once.
    `unheard` is called when it could not be sent whole.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    slow_s: float = 0.0
    cut: bool = False
    reset: bool = False
    stall_s: float = 0.0
    unanswered: bool = False
    unheard: Callable[[], None] = _nobody_minds

    @property
    def reaches_client(self) -> bool:
        """Whether a patient client gets to see all of it."""
        return not (self.cut or self.reset or self.unanswered)


def json_response(status: int, value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(status, json.dumps(value, separators=(",", ":")).encode(), headers=headers or {})


def error_response(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """An error as the real server writes it: `{"detail": text}`."""
    return json_response(status, {"detail": detail}, headers)
