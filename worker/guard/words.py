"""Sizes as people read them."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_in_words(size: float) -> str:
    """`288 MiB` or `1.5 GiB` of a number of bytes."""
    number, unit = float(size), 0
    while abs(number) >= 1000 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    digits = 1 if unit and abs(number) < 100 else 0
    return f"{number:.{digits}f}".removesuffix(".0") + f" {_UNITS[unit]}"
