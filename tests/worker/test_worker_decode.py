"""Decoding: whatever comes becomes RGB of 8 bits, or a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from worker.ingest.decode import DecodeError, decode

HEIGHT, WIDTH = 40, 64


def gradient() -> Image.Image:
    """Smooth, so that JPEG hardly changes it; three different channels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 2 - y * 3], axis=2).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("JPEG", {"quality": 95}),
        ("JPEG", {"quality": 95, "progressive": True}),
        ("JPEG", {"quality": 95, "keep_rgb": True}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("BMP", {}),
    ],
)
def test_colour_comes_out_as_it_went_in(kind: str, how: dict[str, Any]) -> None:
    pixels = decode(encoded(gradient(), kind, **how))
    assert (pixels.dtype, pixels.shape, pixels.flags.c_contiguous) == (np.uint8, (HEIGHT, WIDTH, 3), True)
    assert np.abs(pixels.astype(int) - np.asarray(gradient()).astype(int)).mean() < 3


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("L", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG")],
)
def test_other_modes_become_what_pillow_makes_of_them(mode: str, kind: str) -> None:
    data = encoded(gradient().convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    pixels = decode(data)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(pixels.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_cut_to_the_upper_eight(kind: str) -> None:
    grey = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 25).reshape(HEIGHT, WIDTH)
    pixels = decode(encoded(Image.fromarray(grey), kind))
    assert np.array_equal(pixels, np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2))


def cut_png(width: int, height: int) -> bytes:
    """The header of a black and white image, and the first of its data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(9999))[:30])


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"<html>gone</html>", "not an image"),
        (encoded(gradient(), "JPEG")[:-200], "truncated"),
        (encoded(gradient(), "PNG")[:80], "truncated"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "not an image"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
        (EPS, "EPS is a program"),
        (cut_png(13_900, 13_900), "truncated"),
        (cut_png(14_200, 14_200), "more than the limit of 200000000"),
        (cut_png(100_000, 100_000), "limit"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_beyond_the_limit_is_refused_before_it_is_decoded(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.ingest.decode.MAX_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(DecodeError, match="more than the limit"):
        decode(encoded(gradient(), kind))
