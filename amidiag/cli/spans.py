"""Spans of time on the command line: `45s`, `10m`, `12h`, `7d`; a bare number is seconds."""

from __future__ import annotations

import re

from amidiag.cli.options import bad_parameter

_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(text: str) -> float:
    """The span in seconds. Raises click.BadParameter where it is none."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise bad_parameter(f"{text!r} is no time: write 0s, 30m, 12h or 7d")
    return float(match[1]) * _UNITS[match[2]]
