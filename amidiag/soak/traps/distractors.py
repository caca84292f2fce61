"""What lies on the sheet and is no insect: stains and shadows, a seam, dust, fibres."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from amidiag.soak.traps.fields import Field, Pixels, Rng, grid


def stain(sheet: Field, rng: Rng) -> None:
    """Soft shadows, stains and sometimes a seam, onto the coarse `sheet` (h, w, 3) in place."""
    height, width = sheet.shape[:2]
    y, x = grid(height, width)
    for _ in range(int(rng.integers(0, 5))):
        cy, cx = rng.uniform(0, 1), rng.uniform(0, width / height)
        ry, rx = rng.uniform(0.02, 0.16, 2)
        blot = np.exp(-(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2)).astype(np.float32)
        depth = np.float32(rng.uniform(0.04, 0.16))
        tone = np.array([1.0, 1.0 + rng.uniform(-0.2, 0.2), 1.0 + rng.uniform(-0.2, 0.4)], dtype=np.float32)
        sheet *= 1 - depth * blot[:, :, None] * tone
    if rng.random() < 0.35:
        turn, offset = rng.uniform(0, np.pi), rng.uniform(0.1, 0.9)
        away = np.abs((x - 0.5) * np.float32(np.cos(turn)) + (y - offset) * np.float32(np.sin(turn)))
        dark = np.float32(rng.uniform(0.08, 0.2)) * np.exp(-((away / np.float32(0.004)) ** 2))
        sheet *= (1 - dark)[:, :, None]


def litter(pixels: Pixels, rng: Rng, reserve: int) -> None:
    """Dust of at most a sixth of the smallest insect, and thin fibres, onto `pixels` (H, W, 3) in place."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    for _ in range(int(rng.integers(0, 50))):
        r = float(rng.uniform(0.5, max(1.0, 0.0025 * short)))
        side = 2 * int(r + 2)
        i, j = np.mgrid[0:side, 0:side] + 0.5 - side / 2
        mask = np.clip(r + 0.5 - np.hypot(i, j), 0, 1) * rng.uniform(0.3, 0.7)
        _darken(pixels, mask, rng, reserve)
    for _ in range(int(rng.integers(0, 5))):
        _darken(pixels, _fibre(rng, short) * rng.uniform(0.2, 0.5), rng, reserve)


def _fibre(rng: Rng, short: int) -> NDArray[np.float64]:
    """A bowed hair, one to three pixels thick and 2 to 6 % of the short side long, as a mask 0 to 1."""
    side = max(8, int(rng.uniform(0.02, 0.06) * short))
    ends = rng.uniform(0, 3 * side, (3, 2))
    t = np.linspace(0, 1, 12)[:, None]
    curve = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
    mask = Image.new("L", (3 * side, 3 * side), 0)
    thick = 2 + 3 * side // 64
    ImageDraw.Draw(mask).line([(float(x), float(y)) for x, y in curve], fill=255, width=thick, joint="curve")
    return np.asarray(mask.reduce(3), dtype=np.float64) / 255


def _darken(pixels: Pixels, mask: NDArray[np.float64], rng: Rng, reserve: int) -> None:
    """Put a dark thing of shape `mask` somewhere; what lies outside the image is cut."""
    height, width = pixels.shape[:2]
    top, left = int(rng.integers(0, height)), int(rng.integers(0, width))
    region = pixels[top : top + mask.shape[0], left : left + mask.shape[1]]
    part = mask[: region.shape[0], : region.shape[1], None]
    region[:] = np.clip(region * (1 - part), reserve, 255 - reserve).astype(np.uint8)
