"""Which way up a picture is: the orientation in its EXIF data, a number from 1 (upright) to 8."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

UPRIGHT = 1
_TAG = 0x0112
_LONG = 4


def of_exif(exif: bytes) -> int:
    """The orientation that a block of EXIF data names; `UPRIGHT` where it names none that is known."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return UPRIGHT
    try:
        return _in_first_directory(exif, order)
    except struct.error:
        # It points beyond its end.
        return UPRIGHT


def _in_first_directory(exif: bytes, order: str) -> int:
    (directory,) = struct.unpack_from(order + "I", exif, 4)
    (entries,) = struct.unpack_from(order + "H", exif, directory)
    for at in range(directory + 2, directory + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(order + "HH", exif, at)
        if tag == _TAG:
            (value,) = struct.unpack_from(order + ("I" if kind == _LONG else "H"), exif, at + 8)
            return int(value) if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def is_on_its_side(orientation: int) -> bool:
    """Whether width and height change places when the picture is put upright."""
    return orientation >= 5


def as_stored(upright: Pixels, orientation: int) -> Pixels:
    """A view of an upright picture's pixels as the file stores them: what is written there is put upright."""
    if is_on_its_side(orientation):
        upright = upright.transpose(1, 0, 2)
    rows = slice(None, None, -1 if orientation in (3, 4, 6, 7) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 7, 8) else 1)
    return upright[rows, columns]
