"""Decoding: whatever comes becomes RGB of 8 bits, or a reason."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from worker.ingest import decode as module
from worker.ingest.decode import DecodeError
from worker.ingest.orientation import Pixels

HEIGHT, WIDTH = 40, 64
EOI = b"\xff\xd9"


def decode(data: bytes, max_pixels: int = 200_000_000) -> Pixels:
    return module.decode(data, max_pixels)


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
        (b"\xff\xd8\xff\xe0" + bytes(100), "no header of an image"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point"),
        (EPS, "not an image"),
        (cut_png(13_900, 13_900), "truncated"),
        (cut_png(14_200, 14_200), "more than the limit of 200000000"),
        (cut_png(100_000, 100_000), "limit"),
    ],
)
def test_what_cannot_be_decoded_says_why(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_beyond_the_limit_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(DecodeError, match="more than the limit"):
        module.read_header(encoded(gradient(), kind), HEIGHT * WIDTH - 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_put_upright_and_its_header_says_so(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    how = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(gradient(), kind, exif=exif, **how)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    header = module.read_header(data, 10**9)
    assert (header.height, header.width) == upright.shape[:2]
    assert np.abs(decode(data).astype(int) - upright.astype(int)).max() <= 2


def test_the_orientation_of_a_png_counts_also_behind_the_picture() -> None:
    exif = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif + struct.pack(">I", zlib.crc32(b"eXIf" + exif))
    plain = encoded(gradient(), "PNG")
    turned = np.asarray(gradient().transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(decode(plain[:-12] + chunk + plain[-12:]), turned)


@pytest.mark.parametrize(
    "exif", [b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"nonsense", b"II*\0\xff\xff\xff\xff"]
)
def test_broken_exif_data_leave_the_image_as_it_is(exif: bytes) -> None:
    assert decode(encoded(gradient(), "JPEG", exif=b"Exif\0\0" + exif)).shape == (HEIGHT, WIDTH, 3)


KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"optimize": True},
    {"restart_marker_blocks": 3},
    {"keep_rgb": True},
]


def noisy(mode: str = "RGB") -> Image.Image:
    grain = np.random.default_rng(1).integers(-20, 20, (HEIGHT, WIDTH, 3))
    pixels = np.asarray(gradient()).astype(int) + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("how", KINDS, ids=str)
def test_a_jpeg_of_which_a_part_is_missing_is_an_error_however_its_end_looks(
    mode: str, how: dict[str, Any]
) -> None:
    whole = encoded(noisy(mode), "JPEG", **(how if mode == "RGB" else how | {"keep_rgb": False}))
    first = whole.index(b"\xff\xda")
    # Damage to the last bytes alone cannot be told from padding.
    for at in range(first, len(whole) - 10, 7):
        cut, lost = whole[:at], len(whole) - at
        for rest in (b"", EOI, bytes(lost), bytes(lost - 2) + EOI, EOI + b"trailing"):
            with pytest.raises(DecodeError):
                decode(cut + rest)


def with_odd_numbers(data: bytes) -> bytes:
    odd = bytearray(data)
    odd[odd.index(b"JFIF") + 5] = 9
    scan = odd.index(b"\xff\xda")
    end = scan + 2 + int.from_bytes(odd[scan + 2 : scan + 4])
    odd[end - 3 : end] = bytes(3)
    return bytes(odd)


@pytest.mark.parametrize(
    "quirk",
    [
        lambda data: data[:-2],
        lambda data: data[:-2] + bytes(5000),
        lambda data: data[:-2] + bytes(50) + EOI,
        lambda data: data[:-2] + b"\x12\x34\x56" * 4 + EOI,
        lambda data: data[:-2] + b"\xff\xff\xff" + EOI,
        lambda data: data + b"trailing",
        lambda data: data + bytes(5000),
        lambda data: data + data,
        with_odd_numbers,
        lambda data: with_odd_numbers(data)[:-2],
    ],
)
@pytest.mark.parametrize("how", [{}, {"optimize": True}, {"restart_marker_blocks": 3}], ids=str)
def test_a_jpeg_with_a_quirk_is_taken_where_nothing_of_the_picture_is_missing(
    quirk: Any, how: dict[str, Any]
) -> None:
    data = encoded(noisy(), "JPEG", **how)
    assert np.array_equal(decode(quirk(data)), decode(data))


def test_a_progressive_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(noisy(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(DecodeError, match="more than 200 scans"):
        decode(data[:-2] + last * 300 + EOI)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_an_image_of_another_format_that_is_cut_is_an_error(kind: str) -> None:
    data = encoded(noisy(), kind)
    for at in range(1, len(data) * 9 // 10, len(data) // 40):
        with pytest.raises(DecodeError):
            decode(data[:at])
