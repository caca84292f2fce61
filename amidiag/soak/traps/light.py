"""The light on the sheet: its distribution, brightness and colour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from amidiag.soak.traps.fields import Field, Rng, grid, single


def light(kind: str, rng: Rng, height: int, width: int) -> Field:
    """What the lamp gives each place, (height, width, 3), about 0.2 to 1.1; `kind` is one of `LIGHTS`."""
    y, x = grid(height, width)
    shape = _LIGHT[kind](rng, y, x)
    low, high = (0.42, 0.6) if kind == "dusk" else (0.75, 1.0)
    colour = _CASTS[int(rng.integers(len(_CASTS)))]
    if kind == "blacklight":
        colour = (0.80, 0.78, 1.12)
    return shape[:, :, None] * single(np.array(colour) * rng.uniform(low, high))


def _even(rng: Rng, y: Field, x: Field) -> Field:
    return np.ones((y.shape[0], x.shape[1]), dtype=np.float32)


def _vignette(rng: Rng, y: Field, x: Field) -> Field:
    half = float(x.max()) / 2
    away = ((y - 0.5) ** 2 + (x - half) ** 2) / (0.25 + half * half)
    return single(1 - rng.uniform(0.2, 0.5) * away)


def _side(rng: Rng, y: Field, x: Field) -> Field:
    turn, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.4)
    along = (x - float(x.max()) / 2) * np.cos(turn) + (y - 0.5) * np.sin(turn)
    return single(np.clip(0.85 + fall * along, 0.35, 1.08))


def _lamp(rng: Rng, y: Field, x: Field) -> Field:
    return _spot(rng, y, x, rng.uniform(0.35, 0.8), 0.3)


def _twin(rng: Rng, y: Field, x: Field) -> Field:
    first = _spot(rng, y, x, rng.uniform(0.3, 0.6), 0.35)
    return np.maximum(first, _spot(rng, y, x, rng.uniform(0.3, 0.6), 0.35))


def _spot(rng: Rng, y: Field, x: Field, radius: float, floor: float) -> Field:
    """Bright at a random place, falling to half at `radius` (in heights) and to `floor` far away."""
    cy, cx = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9) * float(x.max())
    away = single((y - cy) ** 2 + (x - cx) ** 2) / np.float32(radius * radius)
    return single(floor + (1.08 - floor) / (1 + away))


_CASTS: Final = (
    (1.0, 1.0, 1.0),
    (1.06, 1.0, 0.86),
    (1.08, 0.96, 0.74),
    (0.88, 0.97, 1.08),
    (0.94, 1.05, 0.92),
)

_LIGHT: Final[dict[str, Callable[[Rng, Field, Field], Field]]] = {
    "even": _even,
    "vignette": _vignette,
    "side": _side,
    "lamp": _lamp,
    "blacklight": _lamp,
    "twin": _twin,
    "dusk": _vignette,
}
