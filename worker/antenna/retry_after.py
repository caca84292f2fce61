"""How long a server asks to be left alone: the Retry-After header (RFC 9110, 10.2.3)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

# However long a server asks for: it may have been set for a browser, or by a clock that is wrong.
LONGEST_S = 120.0


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds from now, `LONGEST_S` at most; None where the server does not say, or not so that it can be read."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        seconds = float(said)
    else:
        until, now = _moment(said), _moment(headers.get("Date", ""))
        if until is None:
            return None
        # By the server's own clock, as far as it tells: ours may be another.
        seconds = until - (time.time() if now is None else now)
    return min(max(0.0, seconds), LONGEST_S)


def _moment(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
