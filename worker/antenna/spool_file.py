"""What a post looks like on disk: one JSON object, without the token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_VERSION = 1


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """The answer to one task, with the reply subject under which it was to be posted when it was kept."""

    task_id: str
    reply_subject: str | None
    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KeptPost:
    """A post to one job. `reserved_at`: when the oldest of its tasks was reserved, in seconds since 1970."""

    job_id: int
    reserved_at: float
    answers: tuple[KeptAnswer, ...]


def encode(post: KeptPost) -> bytes:
    """As `decode` reads it. A number that is not finite stays what it is: only the server may refuse it."""
    answers = [[a.task_id, a.reply_subject, a.result] for a in post.answers]
    return json.dumps(
        {"version": _VERSION, "job_id": post.job_id, "reserved_at": post.reserved_at, "answers": answers}
    ).encode()


def decode(data: bytes) -> KeptPost:
    """Raises ValueError: that is no such post, or not all of it."""
    try:
        body = json.loads(data)
        if body["version"] != _VERSION:
            raise ValueError(f"version {body['version']!r}")
        answers = tuple(_answer(*one) for one in body["answers"])
        return KeptPost(int(body["job_id"]), float(body["reserved_at"]), answers)
    except (KeyError, TypeError, OverflowError, RecursionError) as e:
        raise ValueError(f"{type(e).__name__}: {e}") from e


def _answer(task_id: object, reply_subject: object, result: object) -> KeptAnswer:
    if not (
        isinstance(task_id, str) and isinstance(reply_subject, str | None) and isinstance(result, Mapping)
    ):
        raise TypeError("no answer to a task")
    return KeptAnswer(task_id, reply_subject, result)
