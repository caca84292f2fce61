"""JPEG to pixels, by libjpeg-turbo, with an eye on whether the picture is whole.

What decides: libjpeg-turbo must find real data for every block, without one complaint. It fills what is
missing with grey and only warns, and Pillow passes even that over. Some warnings say nothing about the picture,
though, and at the first one the decoder stops to look; so a refused file is decoded once more with what is
harmless put right (a missing EOI, zeros that were added, odd numbers in the header). A cut file cannot be
helped like this: closed with EOI it still ends before its last block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import simplejpeg

from worker.ingest import orientation
from worker.ingest.orientation import Pixels

MAGIC = b"\xff\xd8\xff"
CMYK = frozenset({"CMYK", "YCCK"})

_EOI = b"\xff\xd9"
_APP0, _APP1, _APP14, _SOS = 0xE0, 0xE1, 0xEE, 0xDA
_SEQUENTIAL = (0xC0, 0xC1)
# Some cameras write a few bytes between the last block, which has been decoded then, and EOI.
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_FEW_BYTES = 16
# Rows at a time, so that the steps between four colours and three need little memory.
_BAND = 64


def read_header(data: bytes) -> tuple[int, int, str]:
    """Height and width as stored, and the colour space in libjpeg-turbo's words.

    Raises:
        ValueError: no such header.
    """
    height, width, colour, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    return int(height), int(width), str(colour)


def orientation_of(data: bytes) -> int:
    """The orientation that its EXIF data names."""
    for marker, start, end in _segments(data):
        if marker == _APP1 and data.startswith(b"Exif\0\0", start):
            return orientation.of_exif(data[start:end])
    return orientation.UPRIGHT


def decode_into(data: bytes, colour: str, out: Pixels) -> None:
    """Decode to RGB into `out` (height, width, 3) as stored, C-contiguous.

    Raises:
        ValueError: it is damaged, or a part of the picture is missing.
    """
    decode = _cmyk if colour in CMYK else _rgb
    try:
        decode(data, out, strict=True)
    except ValueError:
        mended = _without_quirks(data, colour)
        try:
            decode(mended, out, strict=True)
        except ValueError as e:
            if not _is_harmless(str(e)):
                raise
            decode(mended, out, strict=False)


def _rgb(data: bytes, out: Pixels, *, strict: bool) -> None:
    simplejpeg.decode_jpeg(data, "RGB", buffer=out, strict=strict)


def _cmyk(data: bytes, out: Pixels, *, strict: bool) -> None:
    """As Pillow does: values are taken as stored inverted, which is Adobe's way."""
    four = simplejpeg.decode_jpeg(data, "CMYK", strict=strict)
    for top in range(0, len(four), _BAND):
        band = four[top : top + _BAND].astype(np.int32)
        black = band[:, :, 3:]
        product = (255 - band[:, :, :3]) * black + 128
        rgb = black - ((product + (product >> 8)) >> 8)
        out[top : top + _BAND] = rgb.clip(0, 255)


def _is_harmless(complaint: str) -> bool:
    match = _EXTRANEOUS.search(complaint)
    return match is not None and int(match[1]) <= _FEW_BYTES


def _without_quirks(data: bytes, colour: str) -> bytes:
    """The same with an EOI right behind the picture, and with numbers that no decoder heeds set to the usual."""
    mended = bytearray(data)
    is_sequential = False
    for marker, start, end in _segments(data):
        is_sequential |= marker in _SEQUENTIAL
        if marker == _APP0 and data.startswith(b"JFIF\0", start):
            mended[start + 5] = 1
        elif marker == _APP14 and data.startswith(b"Adobe", start) and end - start >= 12:
            # Beyond 2, or where it does not fit, the decoder takes it for YCCK or YCbCr and warns.
            mended[start + 11] = _transform(mended[start + 11], colour)
        elif marker == _SOS and is_sequential and end <= len(data):
            mended[end - 3 : end] = bytes((0, 63, 0))
    kept = bytes(mended).rstrip(b"\0")
    kept = kept.removesuffix(_EOI).rstrip(b"\0")
    # FF in the data of a picture is followed by a zero.
    return kept + (b"\0" if kept.endswith(b"\xff") else b"") + _EOI


def _transform(value: int, colour: str) -> int:
    if colour in CMYK:
        return value if value in (0, 2) else 2
    return value if value in (0, 1) else 1


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, first byte and end of each segment with a length, up to the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        yield marker, at + 4, end
        if marker == _SOS:
            return
        at = end
