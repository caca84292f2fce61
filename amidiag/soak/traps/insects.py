"""The planted species: how each looks from above, and how individuals of one species differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from amidiag.soak.traps.fields import Rng
from amidiag.soak.traps.sketch import Colour, Point, Sketch, mirror, oval, smooth


def draw(species: str, rng: Rng) -> Sketch:
    """One individual of `species` (a key of `KIND_OF_SPECIES`), head up."""
    return _DRAW[species](rng)


def _moth_colours(rng: Rng) -> tuple[Colour, Colour, Colour]:
    """Wing, mark and body: browns, greys, ochres, dull greens, always darker than cloth."""
    hues: tuple[Colour, ...] = (
        (0.46, 0.36, 0.26),
        (0.40, 0.38, 0.36),
        (0.52, 0.42, 0.24),
        (0.36, 0.25, 0.18),
        (0.38, 0.40, 0.28),
        (0.55, 0.47, 0.40),
    )
    wing = _vary(hues[int(rng.integers(len(hues)))], rng, 0.85, 1.15)
    return wing, _times(wing, rng.uniform(0.35, 0.55)), _times(wing, rng.uniform(0.5, 0.8))


def _moth_wings(rng: Rng) -> tuple[list[Point], list[Point]]:
    """Right forewing and hindwing: a broad triangle and a rounded fan, more or less swept back."""
    sweep = rng.uniform(-0.25, 0.30)
    reach = rng.uniform(0.85, 1.05)
    fore = [
        (0.0, 0.42),
        (0.45 * reach, 0.50 - 0.5 * sweep),
        (1.0 * reach, 0.30 - sweep),
        (0.92 * reach, 0.02 - sweep),
    ]
    fore += [(0.55 * reach, -0.25 - 0.6 * sweep), (0.0, -0.22)]
    hind = [
        (0.0, 0.02),
        (0.45, 0.0),
        (0.72 * reach, -0.22 - 0.3 * sweep),
        (0.62 * reach, -0.58),
        (0.30, -0.70),
    ]
    hind += [(0.0, -0.45)]
    return smooth(fore), smooth(hind)


def _moth(rng: Rng, mark: Callable[[Sketch, Rng, Colour], None]) -> Sketch:
    wing, dark, body = _moth_colours(rng)
    fore, hind = _moth_wings(rng)
    sketch = Sketch()
    pale = _times(wing, rng.uniform(1.0, 1.25))
    for outline in (hind, mirror(hind)):
        sketch.polygon(outline, pale)
    for outline in (fore, mirror(fore)):
        sketch.polygon(outline, wing)
    mark(sketch, rng, dark)
    length = rng.uniform(0.42, 0.55)
    sketch.ellipse((0, 0.02 - length / 4), 0.09, length, body)
    sketch.ellipse((0, 0.28), 0.12, 0.17, _times(body, 1.15))
    sketch.ellipse((0, 0.47), 0.075, 0.07, _times(body, 0.8))
    bow = rng.uniform(0.28, 0.45)
    feeler = [(0.03, 0.52), (0.6 * bow, 0.66), (bow, 0.82)]
    for line in (feeler, mirror(feeler)):
        sketch.stroke(line, 0.035, _times(body, 0.8))
    return sketch


def _unmarked(sketch: Sketch, rng: Rng, dark: Colour) -> None:
    """A faint darker margin at most."""


def _bands(sketch: Sketch, rng: Rng, dark: Colour) -> None:
    """Two or three dark bands across both wings, bowed as one."""
    start, gap = rng.uniform(0.28, 0.36), rng.uniform(0.24, 0.28)
    width, bow = rng.uniform(0.09, 0.12), rng.uniform(-0.15, 0.15)
    for number in range(int(rng.integers(2, 4))):
        x = start + number * gap
        band = [
            (x, 0.7),
            (x + bow, 0.0),
            (x, -0.9),
            (x + width, -0.9),
            (x + width + bow, 0.0),
            (x + width, 0.7),
        ]
        sketch.pattern(band, dark)
        sketch.pattern(mirror(band), dark)


def _eyes(sketch: Sketch, rng: Rng, dark: Colour) -> None:
    """One ringed eye spot on each of the four wings."""
    r = rng.uniform(0.14, 0.18)
    for centre in ((0.55, 0.12), (0.42, -0.36)):
        for sign in (1, -1):
            at = (sign * centre[0], centre[1])
            sketch.pattern(oval(at, r, r), dark)
            sketch.pattern(oval(at, 0.62 * r, 0.62 * r), (0.75, 0.66, 0.45))
            sketch.pattern(oval(at, 0.3 * r, 0.3 * r), (0.06, 0.05, 0.05))


def _beetle(rng: Rng) -> Sketch:
    shades: tuple[Colour, ...] = (
        (0.10, 0.08, 0.07),
        (0.24, 0.13, 0.07),
        (0.10, 0.17, 0.12),
        (0.30, 0.20, 0.08),
    )
    shell = _vary(shades[int(rng.integers(len(shades)))], rng, 0.8, 1.25)
    wide = rng.uniform(0.34, 0.44)
    sketch = Sketch()
    _legs(sketch, rng, wide, rng.uniform(0.18, 0.28), _times(shell, 0.8))
    sketch.polygon(smooth([(-wide, 0.25), (wide, 0.25), (wide, -0.4), (0.0, -0.95), (-wide, -0.4)]), shell)
    sketch.ellipse((0, 0.34), 0.85 * wide, 0.20, _times(shell, 0.85))
    sketch.ellipse((0, 0.56), 0.5 * wide, 0.15, _times(shell, 0.7))
    shine = _mix(shell, (0.9, 0.9, 0.9), rng.uniform(0.2, 0.45))
    sketch.pattern(oval((-0.45 * wide, 0.0), 0.10 * wide, 0.22), shine)
    sketch.pattern([(-0.015, 0.2), (0.015, 0.2), (0.015, -0.8), (-0.015, -0.8)], _times(shell, 0.4))
    feeler = [(0.08, 0.64), (0.22, 0.82)]
    for line in (feeler, mirror(feeler)):
        sketch.stroke(line, 0.04, shell)
    return sketch


def _fly(rng: Rng) -> Sketch:
    body = _vary((0.15, 0.15, 0.16), rng, 0.7, 1.4)
    sketch = Sketch()
    _legs(sketch, rng, 0.2, rng.uniform(0.26, 0.36), _times(body, 0.8))
    open_by = rng.uniform(0.35, 0.7)
    glass: Colour = (0.42, 0.42, 0.42)
    for sign in (1, -1):
        middle = (sign * (0.12 + 0.42 * math.sin(open_by)), 0.15 - 0.42 * math.cos(open_by))
        sketch.polygon(oval(middle, 0.17, 0.5, sign * open_by), glass, opacity=0.45)
    sketch.ellipse((0, -0.25), 0.20, 0.38, body)
    sketch.ellipse((0, 0.20), 0.21, 0.24, _times(body, 0.8))
    sketch.ellipse((0, 0.50), 0.20, 0.13, (0.34, 0.10, 0.08))
    return sketch


def _wasp(rng: Rng) -> Sketch:
    black: Colour = (0.10, 0.09, 0.07)
    bright: Colour = _vary((0.62, 0.46, 0.10), rng, 0.7, 1.1)
    sketch = Sketch()
    _legs(sketch, rng, 0.12, rng.uniform(0.22, 0.30), _mix(black, bright, 0.3))
    spread = rng.uniform(0.5, 1.0)
    for sign in (1, -1):
        middle = (sign * (0.08 + 0.40 * math.sin(spread)), 0.28 - 0.40 * math.cos(spread))
        sketch.polygon(oval(middle, 0.09, 0.44, sign * spread), (0.40, 0.34, 0.26), opacity=0.5)
    tail = rng.uniform(0.70, 0.95)
    sketch.polygon(smooth([(-0.14, -0.02), (0.14, -0.02), (0.15, -0.4), (0.0, -tail), (-0.15, -0.4)]), black)
    for number in range(3):
        y = -0.14 - 0.19 * number
        sketch.pattern([(-0.2, y), (0.2, y), (0.2, y - 0.08), (-0.2, y - 0.08)], bright)
    sketch.ellipse((0, 0.24), 0.15, 0.22, black)
    sketch.ellipse((0, 0.53), 0.14, 0.10, _mix(black, bright, 0.4))
    feeler = [(0.05, 0.60), (0.16, 0.76), (0.22, 0.90)]
    for line in (feeler, mirror(feeler)):
        sketch.stroke(line, 0.035, black)
    return sketch


def _legs(sketch: Sketch, rng: Rng, from_x: float, length: float, colour: Colour) -> None:
    """Three pairs, bent once."""
    for y, aim in ((0.30, 0.5), (0.05, -0.1), (-0.15, -0.6)):
        turn = aim + rng.uniform(-0.15, 0.15)
        knee = (0.8 * from_x + 0.6 * length, y + 0.5 * length * turn)
        foot = (0.8 * from_x + 1.1 * length, y + 1.3 * length * turn)
        line: list[Point] = [(0.0, y), knee, foot]
        sketch.stroke(line, 0.05, colour)
        sketch.stroke(mirror(line), 0.05, colour)


def _times(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return (a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2]))


def _vary(colour: Colour, rng: Rng, low: float, high: float) -> Colour:
    """Another brightness and a slight drift of the hue."""
    r, g, b = rng.uniform(low, high) * (1 + rng.uniform(-0.06, 0.06, 3))
    return (colour[0] * r, colour[1] * g, colour[2] * b)


_DRAW: Final[dict[str, Callable[[Rng], Sketch]]] = {
    "plain_moth": lambda rng: _moth(rng, _unmarked),
    "banded_moth": lambda rng: _moth(rng, _bands),
    "eyed_moth": lambda rng: _moth(rng, _eyes),
    "beetle": _beetle,
    "fly": _fly,
    "wasp": _wasp,
}
