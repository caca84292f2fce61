"""The bare sheet: cloth of several families.

Folds, seams and shades are drawn on a coarse grid (at most 1024 cells on the long side) that the
renderer enlarges; what must be finer (weave, mesh, sensor noise) goes into the tile of `grain`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from amidiag.soak.traps.fields import Field, Rng, grid, noise_field, single

_TILE = 256  # pixels


def cloth(family: str, rng: Rng, height: int, width: int) -> Field:
    """Reflectance of the sheet, (height, width, 3), about 0.45 to 0.95; `family` is one of `BACKGROUNDS`."""
    relief = _CLOTH[family](rng, height, width)
    tint = rng.uniform(0.80, 0.92) * (1 + rng.uniform(-0.03, 0.03, 3))
    if family == "wood":
        tint = np.array([0.78, 0.66, 0.50]) * rng.uniform(0.9, 1.1)
    return relief[:, :, None] * single(tint)


def grain(family: str, rng: Rng, amount: float) -> NDArray[np.int8]:
    """The repeating fine texture, (256, 256, 3): sensor noise of `amount` levels, and the family's weave."""
    noise = rng.standard_normal((_TILE, _TILE, 3), dtype=np.float32) * np.float32(0.7 * amount)
    noise += rng.standard_normal((_TILE, _TILE, 1), dtype=np.float32) * np.float32(0.7 * amount)
    if family in _GRAIN:
        noise += _GRAIN[family](rng)[:, :, None]
    rounded: NDArray[np.int8] = np.clip(np.rint(noise), -24, 24).astype(np.int8)
    return rounded


def _plain(rng: Rng, height: int, width: int) -> Field:
    return single(1 + 0.03 * noise_field(rng, height, width, 5))


def _wrinkled(rng: Rng, height: int, width: int) -> Field:
    relief: Field = np.ones((height, width), dtype=np.float32)
    for cells, depth in ((6, 0.07), (13, 0.05), (29, 0.025)):
        relief += np.float32(depth) * (1 - 2 * np.abs(noise_field(rng, height, width, cells)))
    return relief


def _folds(rng: Rng, height: int, width: int) -> Field:
    y, x = grid(height, width)
    turn, waves = rng.uniform(0, np.pi), rng.uniform(4, 14)
    along = single(x * np.cos(turn) + y * np.sin(turn)) + 0.06 * noise_field(rng, height, width, 4)
    swell = np.sin(single(2 * np.pi * waves * along))
    return single(1 + rng.uniform(0.05, 0.12) * swell * np.abs(swell))


def _creases(rng: Rng, height: int, width: int) -> Field:
    """The sheet was kept folded: a lit and a shaded flank along straight lines."""
    relief = _plain(rng, height, width)
    for axis in grid(height, width):
        for offset in np.arange(rng.uniform(0.1, 0.3), 1.4, rng.uniform(0.22, 0.4)):
            away = single((axis - offset) / 0.012)
            relief = single(relief + rng.uniform(0.05, 0.14) * away * np.exp(-away * away))
    return relief


def _stripes(rng: Rng, height: int, width: int) -> Field:
    y, x = grid(height, width)
    axis = x if rng.random() < 0.5 else y
    edge = np.clip(8 * np.sin(2 * np.pi * axis / rng.uniform(0.05, 0.2)), -1, 1)
    return single(_plain(rng, height, width) * (1 + rng.uniform(0.02, 0.06) * edge))


def _wood(rng: Rng, height: int, width: int) -> Field:
    y, _ = grid(height, width)
    drift = single(y + 0.12 * noise_field(rng, height, width, 3))
    rings = np.sin(single(2 * np.pi * rng.uniform(6, 16) * drift))
    fibres = noise_field(rng, height, 8, max(height // 4, 1)).mean(axis=1, keepdims=True)
    return single(1 + 0.06 * rings + 0.06 * fibres)


def _seams(rng: Rng, height: int, width: int) -> Field:
    """Cloth sewn from squares: dark lines, each square of its own shade."""
    y, x = grid(height, width)
    side, start = rng.uniform(0.2, 0.45), rng.uniform(0, 1, 2)
    row, column = single((y + start[0]) / side), single((x + start[1]) / side)
    shades = rng.uniform(0.93, 1.03, (16, 16))
    relief = single(shades[np.floor(row).astype(int) % 16, np.floor(column).astype(int) % 16])
    for axis in (row, column):
        away = single(np.abs(axis - np.rint(axis)) * side / 0.004)
        relief = single(relief * (1 - 0.2 * np.exp(-away * away)))
    return relief


def _quilted(rng: Rng, height: int, width: int) -> Field:
    """Padded diamonds: bright cushions, shaded grooves."""
    y, x = grid(height, width)
    waves = np.pi / rng.uniform(0.06, 0.2)
    groove = np.abs(np.sin(waves * (x + y))) * np.abs(np.sin(waves * (x - y)))
    return single(0.86 + 0.16 * np.sqrt(groove))


def _woven(rng: Rng) -> Field:
    i, j = np.mgrid[0:_TILE, 0:_TILE] * (2 * np.pi * int(rng.integers(30, 70)) / _TILE)
    return single(rng.uniform(3, 7) * np.sin(i) * np.sin(j))


def _mesh(rng: Rng) -> Field:
    i, j = np.mgrid[0:_TILE, 0:_TILE]
    period = _TILE // int(rng.choice([16, 32]))
    thread = (i % period < 1 + period // 8) | (j % period < 1 + period // 8)
    return single(rng.uniform(5, 9) * (thread - 0.3))


def _bumps(rng: Rng) -> Field:
    """A quarter mirrored twice, so that the tile has no visible edge where it repeats."""
    half = _TILE // 2
    quarter = noise_field(rng, half, half, half // 10) - noise_field(rng, half, half, half // 14)
    upper = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    return single(rng.uniform(4, 8) * np.concatenate([upper, upper[::-1]], axis=0))


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
    "quilted": _quilted,
}

_GRAIN: Final[dict[str, Callable[[Rng], Field]]] = {"weave": _woven, "net": _mesh, "stucco": _bumps}
