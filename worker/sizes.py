"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
SIZE_IN_WORDS = "a number of bytes, or a number with K, M, G or T (powers of 1024)"


def parse_size(value: object) -> object:
    """`512M`, `1.5GiB` or a number of bytes as an int; what is no text is passed on.

    Raises:
        ValueError: no size.
    """
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("no size")
    unit = (match[2] or "").lower()
    return int(float(match[1]) * 1024 ** (" kmgt".index(unit) if unit else 0))


Size = Annotated[int, BeforeValidator(parse_size)]
"""Bytes."""
