"""JPEG to pixels, by libjpeg-turbo, with an eye on whether the picture is whole.

What decides: libjpeg-turbo must find real data for every block, without one complaint. It fills what is
missing with grey and only warns, and Pillow passes even that over. Some warnings say nothing about the picture,
though, and the decoder ends at the first one; so a refused file is decoded again with what is harmless put
right: a missing EOI, zeros or a few bytes before it, odd numbers in the header. A cut file cannot be helped
like this: closed with EOI it still ends before its last block.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg

from worker.ingest import orientation
from worker.ingest.jpeg_segments import APP0, APP1, APP14, SEQUENTIAL, SOS, Segment, check_scans, segments
from worker.ingest.orientation import Pixels

MAGIC = b"\xff\xd8\xff"
CMYK = frozenset({"CMYK", "YCCK"})

_EOI = b"\xff\xd9"
# Some cameras write a few bytes between the last block and EOI.
_EXTRANEOUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_FEW_BYTES = 16
# Rows at a time, so that the step from four colours to three needs little memory.
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
    for segment in segments(data):
        if segment.marker == APP1 and data.startswith(b"Exif\0\0", segment.start):
            return orientation.of_exif(data[segment.start : segment.end])
        if segment.marker == SOS:
            break
    return orientation.UPRIGHT


def decode_into(data: bytes, colour: str, out: Pixels) -> None:
    """Decode to RGB into `out` (height, width, 3) as stored, C-contiguous.

    Raises:
        ValueError: it is damaged, or a part of the picture is missing.
    """
    check_scans(data)
    decode = _cmyk if colour in CMYK else _rgb
    try:
        decode(data, out)
    except ValueError:
        mended = _without_quirks(data, colour)
        try:
            decode(mended, out)
        except ValueError as e:
            match = _EXTRANEOUS.search(str(e))
            if match is None or int(match[1]) > _FEW_BYTES:
                raise
            decode(mended[: -len(_EOI) - int(match[1])] + _EOI, out)


def _rgb(data: bytes, out: Pixels) -> None:
    simplejpeg.decode_jpeg(data, "RGB", buffer=out)


def _cmyk(data: bytes, out: Pixels) -> None:
    """As Pillow does: values are taken as stored inverted, which is Adobe's way."""
    four = simplejpeg.decode_jpeg(data, "CMYK")
    for top in range(0, len(four), _BAND):
        band = four[top : top + _BAND].astype(np.int32)
        black = band[:, :, 3:]
        product = (255 - band[:, :, :3]) * black + 128
        rgb = black - ((product + (product >> 8)) >> 8)
        out[top : top + _BAND] = rgb.clip(0, 255)


def _without_quirks(data: bytes, colour: str) -> bytes:
    """The same with an EOI right behind the picture, and with numbers that no decoder heeds set to the usual."""
    mended = bytearray(data)
    is_sequential = False
    for segment in segments(data):
        is_sequential |= segment.marker in SEQUENTIAL
        if segment.end <= len(data):
            _mend(mended, segment, colour, is_sequential)
    kept = bytes(mended).rstrip(b"\0").removesuffix(_EOI)
    end = len(kept.rstrip(b"\0"))
    # One zero may be of the picture: its last byte, or the one that follows each FF.
    had_zero = mended[end : end + 1] == b"\0"
    return kept[:end] + (b"\0" if had_zero else b"") + _EOI


def _mend(mended: bytearray, segment: Segment, colour: str, is_sequential: bool) -> None:
    body = mended[segment.start : segment.end]
    if segment.marker == APP0 and body.startswith(b"JFIF\0"):
        mended[segment.start + 5] = 1
    elif segment.marker == APP14 and body.startswith(b"Adobe") and len(body) >= 12:
        # A number that does not fit is taken for YCCK or YCbCr, with a warning.
        known, otherwise = ((0, 2), 2) if colour in CMYK else ((0, 1), 1)
        mended[segment.start + 11] = body[11] if body[11] in known else otherwise
    elif segment.marker == SOS and is_sequential:
        mended[segment.end - 3 : segment.end] = bytes((0, 63, 0))
