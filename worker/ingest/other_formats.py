"""Images that are no JPEG to pixels, by Pillow: of the formats that cameras and people send, no other."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from worker.ingest import orientation
from worker.ingest.orientation import UPRIGHT, Pixels

# Pillow knows many more, among them programs (EPS), and containers whose size is not what they unfold to.
FORMATS = ("PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000", "PPM", "AVIF")
# Pixels at a time, so that the steps from Pillow's image to three bytes a pixel need little memory.
_BAND = 1 << 19
_IMAGE_WIDTH, _IMAGE_LENGTH, _ORIENTATION = 256, 257, 274

# Our own limit decides about large images, from the header: Pillow's is one for the whole process.
Image.MAX_IMAGE_PIXELS = None


def read_header(data: bytes) -> tuple[int, int, int]:
    """Height and width as Pillow decodes it, and the orientation that it leaves to us.

    Raises:
        ValueError, and whatever Pillow raises: no image that can be used.
    """
    with _open(data) as image:
        if image.mode == "F":
            raise ValueError("floating-point pixels have no agreed range")
        if image.format == "TIFF":
            return (*_tiff_size(image), UPRIGHT)
        width, height = image.size
        return height, width, orientation.of_exif(_exif(image, data))


def decode_into(data: bytes, out: Pixels) -> None:
    """Decode to RGB into `out` (height, width, 3), a view of any strides.

    Raises:
        ValueError, and whatever Pillow raises: it is damaged or cut.
    """
    with _open(data) as image:
        image.load()
        height, width = out.shape[:2]
        if image.size != (width, height):
            raise ValueError(f"{image.width}×{image.height} pixels, but {width}×{height} in its header")
        shift = _shift(image)
        rows = max(1, _BAND // width)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            out[top:bottom] = _rgb(image.crop((0, top, width, bottom)), shift)


def _open(data: bytes) -> Image.Image:
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def _shift(image: Image.Image) -> int:
    """By how many bits grey of more than 8 is too wide."""
    if image.mode.startswith("I;16"):
        return 8
    # An int of 32 bits mostly holds 16; TIFF and PNG readers of older Pillows use it for both.
    return 8 if image.mode == "I" and _highest(image) > 255 else 0


def _highest(image: Image.Image) -> float:
    _, highest = image.getextrema()
    assert not isinstance(highest, tuple)
    return highest


def _rgb(band: Image.Image, shift: int) -> Any:
    if band.mode.startswith("I"):
        grey = np.asarray(band).astype(np.int64) >> shift
        return np.clip(grey, 0, 255).astype(np.uint8)[:, :, None]
    return np.asarray(band if band.mode == "RGB" else band.convert("RGB"))


def _tiff_size(image: Any) -> tuple[int, int]:
    """Pillow puts a TIFF upright while it decodes; whether `size` says so before depends on its version."""
    height, width = image.tag_v2[_IMAGE_LENGTH], image.tag_v2[_IMAGE_WIDTH]
    if orientation.is_on_its_side(image.tag_v2.get(_ORIENTATION, UPRIGHT)):
        return width, height
    return height, width


def _exif(image: Image.Image, data: bytes) -> bytes:
    """Its EXIF data. Pillow's `getexif` would decode a whole PNG to look for some behind the picture."""
    found = image.info.get("exif", b"")
    if not found and image.format == "PNG":
        found = next((data[start:end] for kind, start, end in _png_chunks(data) if kind == b"eXIf"), b"")
    return found if isinstance(found, bytes) else b""


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    at = 8
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4
