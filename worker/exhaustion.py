"""What this process or machine has run out of, found in a chain of wrapped errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

# Of this process or machine, and never of an image, a job or the server.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)


class ExhaustedError(Exception):
    """The worker has run out of something that only a new process, or the operator, can give. The text says what."""


def exhausted(error: BaseException) -> str | None:
    """`EMFILE: Too many open files` where that is at the bottom of `error`, however it was wrapped; else None.

    torch says ENOSPC and EMFILE in the text of a RuntimeError only, with the number in brackets.
    """
    for cause in _chain(error):
        for number in _OURS:
            if getattr(cause, "errno", None) == number or f"{os.strerror(number)} ({number})" in str(cause):
                return f"{errno.errorcode[number]}: {os.strerror(number)}"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args)
        waiting.extend(e for e in inner if isinstance(e, BaseException))
