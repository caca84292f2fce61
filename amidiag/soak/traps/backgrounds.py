"""The sheet without insects: cloth of several families, light of several kinds, stains and shadows.

Everything here is drawn on a coarse grid (at most 1024 cells on the long side) and enlarged by
the renderer; what must be finer (weave, mesh, sensor noise) goes into the tile of `grain`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Rng = np.random.Generator


def cloth(family: str, rng: Rng, height: int, width: int) -> Field:
    """Reflectance of the sheet, (height, width, 3), about 0.45 to 0.95; `family` is one of `BACKGROUNDS`."""
    relief = _CLOTH[family](rng, height, width)
    tint = np.float32(rng.uniform(0.80, 0.92)) * (1 + rng.uniform(-0.03, 0.03, 3).astype(np.float32))
    if family == "wood":
        tint = np.array([0.78, 0.66, 0.50], dtype=np.float32) * np.float32(rng.uniform(0.9, 1.1))
    return relief[:, :, None] * tint


def light(kind: str, rng: Rng, height: int, width: int) -> Field:
    """What the lamp gives each place, (height, width, 3), about 0.3 to 1.1; `kind` is one of `LIGHTS`."""
    y, x = _grid(height, width)
    shape = _LIGHT[kind](rng, y, x)
    low, high = (0.42, 0.6) if kind == "dusk" else (0.75, 1.0)
    colour = _CASTS[int(rng.integers(len(_CASTS)))]
    if kind == "blacklight":
        colour = (0.80, 0.78, 1.12)
    cast = np.array(colour, dtype=np.float32) * np.float32(rng.uniform(low, high))
    return shape[:, :, None] * cast


def stain(sheet: Field, rng: Rng) -> None:
    """Add soft shadows, stains and a seam line to `sheet` in place: none of them has an insect's edges."""
    height, width = sheet.shape[:2]
    y, x = _grid(height, width)
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
        sheet *= (1 - np.float32(rng.uniform(0.08, 0.2)) * np.exp(-((away / 0.004) ** 2)))[:, :, None]


def grain(family: str, rng: Rng, amount: float, side: int = 512) -> NDArray[np.int8]:
    """The repeating fine texture, (side, side, 3): sensor noise of `amount` levels, and the family's own weave."""
    noise = rng.standard_normal((side, side, 3), dtype=np.float32) * np.float32(0.7 * amount)
    noise += rng.standard_normal((side, side, 1), dtype=np.float32) * np.float32(0.7 * amount)
    i, j = np.mgrid[0:side, 0:side].astype(np.float32)
    if family == "weave":
        period = side / rng.integers(60, 140)
        weave = np.sin(2 * np.pi * i / period) * np.sin(2 * np.pi * j / period)
        noise += np.float32(rng.uniform(3, 7)) * weave[:, :, None].astype(np.float32)
    elif family == "net":
        period = side // int(rng.choice([32, 64]))
        holes = ((i % period < 1 + period // 8) | (j % period < 1 + period // 8)).astype(np.float32)
        noise += np.float32(rng.uniform(5, 9)) * (holes - 0.3)[:, :, None]
    elif family == "stucco":
        bumps = np.roll(noise_field(rng, side, side, side // 10), 1, axis=0) - noise_field(
            rng, side, side, side // 14
        )
        noise += np.float32(rng.uniform(4, 8)) * bumps[:, :, None]
    return np.clip(np.rint(noise), -24, 24).astype(np.int8)


def noise_field(rng: Rng, height: int, width: int, cells: int) -> Field:
    """Smooth noise, about −1 to 1, with `cells` bumps over the long side."""
    long = max(height, width)
    rows, columns = max(2, cells * height // long + 2), max(2, cells * width // long + 2)
    coarse = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32
    )


def _grid(height: int, width: int) -> tuple[Field, Field]:
    """Row and column coordinates in units of the height, shapes (height, 1) and (1, width)."""
    y = (np.arange(height, dtype=np.float32) / height)[:, None]
    x = (np.arange(width, dtype=np.float32) / height)[None, :]
    return y, x


def _plain(rng: Rng, height: int, width: int) -> Field:
    return 1 + np.float32(0.03) * noise_field(rng, height, width, 5)


def _wrinkled(rng: Rng, height: int, width: int) -> Field:
    relief = np.ones((height, width), dtype=np.float32)
    for cells, depth in ((6, 0.07), (13, 0.05), (29, 0.025)):
        ridges = 1 - 2 * np.abs(noise_field(rng, height, width, cells))
        relief += np.float32(depth) * ridges
    return relief


def _folds(rng: Rng, height: int, width: int) -> Field:
    y, x = _grid(height, width)
    turn, waves = rng.uniform(0, np.pi), rng.uniform(4, 14)
    along = x * np.float32(np.cos(turn)) + y * np.float32(np.sin(turn))
    along = along + np.float32(0.06) * noise_field(rng, height, width, 4)
    swell = np.sin(2 * np.pi * np.float32(waves) * along)
    return (1 + np.float32(rng.uniform(0.05, 0.12)) * swell * np.abs(swell)).astype(np.float32)


def _creases(rng: Rng, height: int, width: int) -> Field:
    """The sheet was kept folded: a lit and a shaded flank along straight lines."""
    y, x = _grid(height, width)
    relief = _plain(rng, height, width)
    for axis in (x, y):
        for offset in np.arange(rng.uniform(0.1, 0.3), 1.4, rng.uniform(0.22, 0.4)):
            away = (axis - np.float32(offset)) / np.float32(0.012)
            relief = relief + np.float32(rng.uniform(0.05, 0.14)) * away * np.exp(-away * away)
    return relief


def _stripes(rng: Rng, height: int, width: int) -> Field:
    y, x = _grid(height, width)
    period = np.float32(rng.uniform(0.05, 0.2))
    axis = x if rng.random() < 0.5 else y
    edge = np.clip(8 * np.sin(2 * np.pi * axis / period), -1, 1)
    return _plain(rng, height, width) * (1 + np.float32(rng.uniform(0.02, 0.06)) * edge).astype(np.float32)


def _wood(rng: Rng, height: int, width: int) -> Field:
    y, _ = _grid(height, width)
    drift = np.float32(0.12) * noise_field(rng, height, width, 3)
    rings = np.sin(2 * np.pi * (np.float32(rng.uniform(6, 16)) * (y + drift)))
    fibres = np.repeat(noise_field(rng, height, 8, height // 4).mean(axis=1, keepdims=True), width, axis=1)
    return (1 + np.float32(0.06) * rings + np.float32(0.06) * fibres).astype(np.float32)


def _seams(rng: Rng, height: int, width: int) -> Field:
    """Cloth sewn from squares: dark lines, each square of its own shade."""
    y, x = _grid(height, width)
    side = np.float32(rng.uniform(0.2, 0.45))
    start = np.float32(rng.uniform(0, 1, 2))
    row, column = (y + start[0]) / side, (x + start[1]) / side
    shades = rng.uniform(0.93, 1.03, (16, 16)).astype(np.float32)
    relief = shades[np.floor(row).astype(int) % 16, np.floor(column).astype(int) % 16]
    for axis in (row, column):
        away = np.abs(axis - np.rint(axis)) * side / np.float32(0.004)
        relief = relief * (1 - np.float32(0.2) * np.exp(-away * away))
    return relief


def _even(rng: Rng, y: Field, x: Field) -> Field:
    return np.ones((y.shape[0], x.shape[1]), dtype=np.float32)


def _spot(rng: Rng, y: Field, x: Field, reach: tuple[float, float], floor: float) -> Field:
    cy, cx = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9) * float(x[0, -1])
    r = rng.uniform(*reach)
    away = ((y - np.float32(cy)) ** 2 + (x - np.float32(cx)) ** 2) / np.float32(r * r)
    return (np.float32(floor) + np.float32(1.08 - floor) / (1 + away)).astype(np.float32)


def _vignette(rng: Rng, y: Field, x: Field) -> Field:
    half = np.float32(x[0, -1] / 2)
    away = ((y - np.float32(0.5)) ** 2 + (x - half) ** 2) / (np.float32(0.25) + half * half)
    return (1 - np.float32(rng.uniform(0.2, 0.5)) * away).astype(np.float32)


def _side(rng: Rng, y: Field, x: Field) -> Field:
    turn, fall = rng.uniform(0, 2 * np.pi), np.float32(rng.uniform(0.15, 0.4))
    along = (x - x[0, -1] / 2) * np.float32(np.cos(turn)) + (y - np.float32(0.5)) * np.float32(np.sin(turn))
    return np.clip(np.float32(0.85) + fall * along, 0.35, 1.08).astype(np.float32)


def _lamp(rng: Rng, y: Field, x: Field) -> Field:
    return _spot(rng, y, x, (0.35, 0.8), 0.3)


def _twin(rng: Rng, y: Field, x: Field) -> Field:
    return np.maximum(_spot(rng, y, x, (0.3, 0.6), 0.35), _spot(rng, y, x, (0.3, 0.6), 0.35))


_CASTS: Final = (
    (1.0, 1.0, 1.0),
    (1.06, 1.0, 0.86),
    (1.08, 0.96, 0.74),
    (0.88, 0.97, 1.08),
    (0.94, 1.05, 0.92),
)

_CLOTH: Final[dict[str, Callable[[Rng, int, int], Field]]] = {
    "plain": _plain,
    "wrinkled": _wrinkled,
    "folds": _folds,
    "creases": _creases,
    "weave": _plain,
    "stripes": _stripes,
    "wood": _wood,
    "seams": _seams,
    "net": _plain,
    "stucco": _plain,
}

_LIGHT: Final[dict[str, Callable[[Rng, Field, Field], Field]]] = {
    "even": _even,
    "vignette": _vignette,
    "side": _side,
    "lamp": _lamp,
    "blacklight": _lamp,
    "twin": _twin,
    "dusk": _vignette,
}
