"""Drawing one insect, from shapes in its own coordinates to a small antialiased tile with a tight box."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]
Colour = tuple[float, float, float]  # reflectance, 0 to 1

# Below this opacity a pixel cannot be told from the cloth: it is dropped, so that the box is exact.
_FAINT = 0.12


@dataclass(slots=True)
class Sketch:
    """Shapes in drawing order. Coordinates: x to the right, y towards the head, about −1 to 1 each way."""

    shapes: list[tuple[list[Point], Colour, float, bool]] = field(default_factory=list)

    def polygon(self, points: Sequence[Point], colour: Colour, opacity: float = 1.0) -> None:
        self.shapes.append((list(points), colour, opacity, False))

    def pattern(self, points: Sequence[Point], colour: Colour) -> None:
        """A shape that shows only where something opaque already is: a band or a spot on a wing."""
        self.shapes.append((list(points), colour, 1.0, True))

    def ellipse(self, centre: Point, rx: float, ry: float, colour: Colour, opacity: float = 1.0) -> None:
        self.polygon(oval(centre, rx, ry), colour, opacity)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line of constant width (leg, antenna), as one thin box per segment."""
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            length = math.hypot(x2 - x1, y2 - y1) or 1.0
            dx, dy = (y2 - y1) / length * width / 2, -(x2 - x1) / length * width / 2
            self.polygon(
                [(x1 + dx, y1 + dy), (x2 + dx, y2 + dy), (x2 - dx, y2 - dy), (x1 - dx, y1 - dy)], colour
            )


@dataclass(frozen=True, slots=True)
class Tile:
    """An insect as pixels, trimmed tight: `colour` (h, w, 3) as reflectance, `opacity` (h, w), both 0 to 1."""

    colour: NDArray[np.float32]
    opacity: NDArray[np.float32]


def oval(centre: Point, rx: float, ry: float, turn: float = 0.0, steps: int = 28) -> list[Point]:
    """An ellipse as points, turned by `turn` radians."""
    angles = [2 * math.pi * step / steps for step in range(steps)]
    cos, sin = math.cos(turn), math.sin(turn)
    flat = [(rx * math.cos(a), ry * math.sin(a)) for a in angles]
    return [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in flat]


def smooth(points: Sequence[Point], rounds: int = 2) -> list[Point]:
    """Corner cutting (Chaikin): a closed outline that looks grown, not folded."""
    outline = list(points)
    for _ in range(rounds):
        cut: list[Point] = []
        for (x1, y1), (x2, y2) in zip(outline, outline[1:] + outline[:1], strict=True):
            cut.append((0.75 * x1 + 0.25 * x2, 0.75 * y1 + 0.25 * y2))
            cut.append((0.25 * x1 + 0.75 * x2, 0.25 * y1 + 0.75 * y2))
        outline = cut
    return outline


def mirror(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


def paint(sketch: Sketch, angle: float, size: float, grain: float, rng: np.random.Generator) -> Tile:
    """Turn `sketch` by `angle` radians and draw it `size` pixels long (longer side of its box).

    `grain` is the strength of the scales' texture as a share of the colour. Drawn 3 times too
    large and reduced, since Pillow's polygons have hard edges; large insects once.
    """
    cos, sin = math.cos(angle), math.sin(angle)
    turned = [[(x * cos - y * sin, -(x * sin + y * cos)) for x, y in points] for points, *_ in sketch.shapes]
    xs = [x for points in turned for x, _ in points]
    ys = [y for points in turned for _, y in points]
    left, top, extent = min(xs), min(ys), max(max(xs) - min(xs), max(ys) - min(ys))
    times = 4 if size < 64 else 3 if size < 160 else 2
    scale = times * size / extent
    margin = 2 * times
    width = -(-int((max(xs) - left) * scale + 2 * margin) // times) * times
    height = -(-int((max(ys) - top) * scale + 2 * margin) // times) * times

    mean = sketch.shapes[0][1]
    colour = Image.new("RGB", (width, height), _byte(mean))
    opacity = Image.new("L", (width, height), 0)
    for points, (_, shade, alpha, clipped) in zip(turned, sketch.shapes, strict=True):
        dots = [((x - left) * scale + margin, (y - top) * scale + margin) for x, y in points]
        if clipped:
            where = Image.new("L", (width, height), 0)
            ImageDraw.Draw(where).polygon(dots, fill=255)
            colour.paste(_byte(shade), mask=ImageChops.multiply(where, opacity))
        else:
            ImageDraw.Draw(colour).polygon(dots, fill=_byte(shade))
            if alpha >= 1.0:
                ImageDraw.Draw(opacity).polygon(dots, fill=255)
            else:
                where = Image.new("L", (width, height), 0)
                ImageDraw.Draw(where).polygon(dots, fill=round(255 * alpha))
                opacity = ImageChops.lighter(opacity, where)
    return _trim(colour.reduce(times), opacity.reduce(times), grain, rng)


def _trim(colour: Image.Image, opacity: Image.Image, grain: float, rng: np.random.Generator) -> Tile:
    alpha = np.asarray(opacity, dtype=np.float32) / np.float32(255)
    alpha = np.where(alpha < _FAINT, np.float32(0), alpha)
    rows = np.flatnonzero(alpha.any(axis=1))
    columns = np.flatnonzero(alpha.any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    rgb = (np.asarray(colour, dtype=np.float32) / np.float32(255))[part]
    rgb = rgb * (1 + np.float32(grain) * rng.standard_normal((*rgb.shape[:2], 1), dtype=np.float32))
    return Tile(colour=np.clip(rgb, 0, 1), opacity=alpha[part])


def _byte(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (min(max(round(255 * channel), 0), 255) for channel in colour)
    return (r, g, b)
