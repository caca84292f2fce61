"""The end of the process, within a bounded time."""

from __future__ import annotations

LIMIT_S = 10.0


def leave_within(code: int, limit_s: float = LIMIT_S) -> None:
    """From now on the interpreter has `limit_s` seconds to end; then the process ends with `code` all the same.

    Child processes that still live are killed: Python would wait for them without a limit, and one that is
    stopped does not even hear SIGTERM (FACTS 8).
    """
