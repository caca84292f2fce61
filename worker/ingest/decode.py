"""Bytes to pixels: RGB, uint8, upright, written where they are to lie. First the header, then the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import UnidentifiedImageError

from worker.ingest import jpeg, orientation, other_formats
from worker.ingest.orientation import UPRIGHT, Pixels


class DecodeError(Exception):
    """The bytes are no image that can be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of an image before it is decoded: its size in pixels when it stands upright, and how it lies.

    `colour` is that of a JPEG; None for every other format.
    """

    height: int
    width: int
    orientation: int
    colour: str | None

    @property
    def bytes(self) -> int:
        """Bytes of its pixels."""
        return self.height * self.width * 3


def read_header(data: bytes, max_pixels: int) -> Header:
    """Look at the first bytes of an image, without decoding it.

    Raises:
        DecodeError: no image, one of a kind that is not taken, or more than `max_pixels`.
    """
    if not data:
        raise DecodeError("the body is empty")
    colour: str | None = None
    try:
        if data.startswith(jpeg.MAGIC):
            height, width, colour = jpeg.read_header(data)
            way_up = jpeg.orientation_of(data)
        else:
            height, width, way_up = other_formats.read_header(data)
    except UnidentifiedImageError:
        raise DecodeError(f"not an image (the body begins with {data[:16]!r})") from None
    except Exception as e:
        raise DecodeError(f"no header of an image: {_reason(e)}") from e
    _check_size(height, width, max_pixels)
    if orientation.is_on_its_side(way_up):
        height, width = width, height
    return Header(height, width, way_up, colour)


def decode_into(data: bytes, header: Header, out: Pixels) -> None:
    """Decode an image into `out`, C-contiguous, of the height and width that its header says.

    Grey is spread over three channels, alpha is dropped, 16 bits are cut to their upper 8.

    Raises:
        DecodeError: it is damaged, or part of it is missing; what `out` holds then is of no use.
    """
    stored = orientation.as_stored(out, header.orientation)
    try:
        if header.colour is None:
            other_formats.decode_into(data, stored)
        elif header.orientation == UPRIGHT:
            jpeg.decode_into(data, header.colour, out)
        else:
            as_read = np.empty(stored.shape, np.uint8)
            jpeg.decode_into(data, header.colour, as_read)
            stored[...] = as_read
    except Exception as e:
        raise DecodeError(f"truncated or damaged: {_reason(e)}") from e


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Decode one image to a new array (height, width, 3).

    Raises:
        DecodeError: as `read_header` and `decode_into`.
    """
    header = read_header(data, max_pixels)
    out = np.empty((header.height, header.width, 3), np.uint8)
    decode_into(data, header, out)
    return out


def _reason(error: Exception) -> str:
    # Plugins raise whatever they come across; of a ValueError or OSError the text is meant to be read.
    text = " ".join(str(error).split())
    return text if text and isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise DecodeError(f"{width}×{height} pixels are more than the limit of {max_pixels}")
    if width < 1 or height < 1:
        raise DecodeError(f"{width}×{height} pixels")
