"""Smooth fields of numbers that cloth and light are made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Field = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Rng = np.random.Generator


def noise_field(rng: Rng, height: int, width: int, cells: int) -> Field:
    """Smooth noise, about −1 to 1, with `cells` bumps over the long side."""
    long = max(height, width)
    rows, columns = max(2, cells * height // long + 2), max(2, cells * width // long + 2)
    coarse = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)


def grid(height: int, width: int) -> tuple[Field, Field]:
    """Row and column coordinates in units of the height, shapes (height, 1) and (1, width)."""
    y: Field = (np.arange(height) / height).astype(np.float32)
    x: Field = (np.arange(width) / height).astype(np.float32)
    return y[:, None], x[None, :]


def single(field: NDArray[np.floating]) -> Field:
    """In single precision: scalars drawn from the generator are double, and so is what they touch."""
    return field.astype(np.float32)
