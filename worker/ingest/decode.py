"""Bytes to pixels: RGB, uint8, (height, width, 3). JPEG by libjpeg-turbo, everything else by Pillow."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

MAX_PIXELS = 200_000_000
JPEG_MAGIC = b"\xff\xd8\xff"
# libjpeg-turbo makes RGB of these; CMYK and YCCK need Pillow's colour conversion.
TURBO_COLOURS = frozenset({"RGB", "YCbCr", "Gray", "GRAY"})

# Our own limit decides about large images: Pillow's refuses more than 179 million pixels.
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class DecodeError(Exception):
    """The bytes are no image that can be used; the text says why."""


def decode(data: bytes) -> Pixels:
    """Decode one image to a C-contiguous (height, width, 3) uint8 array.

    Grey is spread over three channels, alpha is dropped, 16 bits are cut to their upper 8.

    Raises:
        DecodeError: no image, a broken one, or more than `MAX_PIXELS`.
    """
    if not data:
        raise DecodeError("the body is empty")
    pixels = _turbo(data) if data.startswith(JPEG_MAGIC) else None
    return _pillow(data) if pixels is None else pixels


def _turbo(data: bytes) -> Pixels | None:
    """None where libjpeg-turbo has no colour conversion or finds a fault: Pillow has the last word then."""
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        if colour not in TURBO_COLOURS:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels


def _pillow(data: bytes) -> Pixels:
    try:
        image = Image.open(io.BytesIO(data))
        if image.format == "EPS":
            # Pillow would run Ghostscript on it.
            raise DecodeError("EPS is a program, not an image")
        _check_size(*image.size)
        return np.ascontiguousarray(_to_rgb(image))
    except UnidentifiedImageError:
        raise DecodeError(f"not an image (the body begins with {data[:16]!r})") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        raise DecodeError(f"broken {type(e).__name__}: {e}") from e


def _to_rgb(image: Image.Image) -> Any:
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if image.mode.startswith("I;16") or grey.max(initial=0) > 255:
            grey = grey >> 8
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no agreed range")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise DecodeError(f"{width}×{height} pixels are more than the limit of {MAX_PIXELS}")
    if width < 1 or height < 1:
        raise DecodeError(f"{width}×{height} pixels")
