"""What a trap image is asked to be, and what was planted in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Format = Literal["jpeg", "png"]
Broken = Literal["truncated", "empty", "html", "not_an_image"]
Kind = Literal["moth", "nonmoth"]

KIND_OF_SPECIES: Final[dict[str, Kind]] = {
    "plain_moth": "moth",
    "banded_moth": "moth",
    "eyed_moth": "moth",
    "beetle": "nonmoth",
    "fly": "nonmoth",
    "wasp": "nonmoth",
}

BACKGROUNDS: Final = (
    "plain",
    "wrinkled",
    "folds",
    "creases",
    "weave",
    "stripes",
    "wood",
    "seams",
    "net",
    "stucco",
    "quilted",
)
LIGHTS: Final = ("even", "vignette", "side", "lamp", "blacklight", "twin", "dusk")

# Never seen while the pipelines' weights are trained: what they reach on these shows that they generalise.
HELD_OUT_BACKGROUNDS: Final = ("seams", "net", "stucco", "quilted")
HELD_OUT_LIGHTS: Final = ("twin", "dusk")

BROKEN_KINDS: Final[tuple[Broken, ...]] = ("truncated", "empty", "html", "not_an_image")


@dataclass(frozen=True, slots=True)
class TrapSpec:
    """A trap image to render; equal specs give equal bytes.

    Attributes:
        seed: any integer ≥ 0; everything that is not fixed below follows from it.
        width, height: in pixels, at least 1; insects need a short side of about 64.
        format: `jpeg` or `png`.
        broken: how the bytes are spoiled, if they are.
        insects: least and greatest number of planted insects, both included. Fewer are planted
            where no free place is left.
        background: one of `BACKGROUNDS`; None leaves it to the seed.
        light: one of `LIGHTS`; None leaves it to the seed.
        insect_size: least and greatest length of an insect's longer side, as a share of the
            image's short side; never under 24 pixels. Feelers too thin to be seen at that size are
            not drawn, so the smallest boxes are about 18 pixels long.
        distractors: whether stains, shadows, seam lines and dust are drawn.
        quality: of the JPEG, 1 to 95.

    Raises:
        ValueError: a value outside its range or an unknown name.
    """

    seed: int
    width: int
    height: int
    format: Format = "jpeg"
    broken: Broken | None = None
    insects: tuple[int, int] = (0, 12)
    background: str | None = None
    light: str | None = None
    insect_size: tuple[float, float] = (0.015, 0.10)
    distractors: bool = True
    quality: int = 88

    def __post_init__(self) -> None:
        checks = (
            (self.seed >= 0, f"seed {self.seed} is below 0"),
            (min(self.width, self.height) >= 1, f"size {self.width}x{self.height} has no pixel"),
            (self.format in ("jpeg", "png"), f"format {self.format!r} is neither 'jpeg' nor 'png'"),
            (
                self.broken is None or self.broken in BROKEN_KINDS,
                f"broken {self.broken!r} is not one of {BROKEN_KINDS}",
            ),
            (0 <= self.insects[0] <= self.insects[1], f"insects {self.insects} is no range"),
            (
                self.background in (None, *BACKGROUNDS),
                f"background {self.background!r} is not one of {BACKGROUNDS}",
            ),
            (self.light in (None, *LIGHTS), f"light {self.light!r} is not one of {LIGHTS}"),
            (
                0 < self.insect_size[0] <= self.insect_size[1] <= 1,
                f"insect_size {self.insect_size} is no range",
            ),
            (1 <= self.quality <= 95, f"quality {self.quality} is outside 1..95"),
        )
        for holds, message in checks:
            if not holds:
                raise ValueError(message)


@dataclass(frozen=True, slots=True)
class PlantedInsect:
    """One insect of the truth; `bbox` is (x1, y1, x2, y2) in pixels, tight around wings, legs, antennae."""

    kind: Kind
    species: str
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class TrapImage:
    """A rendered trap image.

    `width` and `height` are those asked for, also where `data` cannot be decoded; `insects` is
    empty for a broken image, since nothing can be found in it.
    """

    data: bytes
    content_type: str
    width: int
    height: int
    insects: tuple[PlantedInsect, ...]


# (width, height, weight): what trap cameras deliver, the largest less often, since each costs half a second.
_SIZES: Final = (
    (640, 480, 4),
    (800, 600, 3),
    (1024, 768, 4),
    (1280, 960, 3),
    (1600, 1200, 2),
    (2048, 1536, 2),
    (4096, 3072, 1),
)


def load_mix(
    seed: int,
    count: int,
    *,
    broken_share: float = 0.1,
    png_share: float = 0.2,
    portrait_share: float = 0.25,
    max_side: int = 4096,
    backgrounds: tuple[str, ...] = BACKGROUNDS,
    lights: tuple[str, ...] = LIGHTS,
    insects: tuple[int, int] = (0, 12),
) -> tuple[TrapSpec, ...]:
    """`count` specs of mixed sizes, formats, backgrounds and light.

    `broken_share` of them are broken, in turn of `BROKEN_KINDS`.

    Raises:
        ValueError: no size fits `max_side` (in pixels; at least 640).
    """
    rng = np.random.default_rng([seed, count, 77])
    sizes = [(w, h, weight) for w, h, weight in _SIZES if w <= max_side]
    if not sizes:
        raise ValueError(f"max_side {max_side} is below the smallest size, 640")
    weights = np.array([weight for _, _, weight in sizes], dtype=np.float64)
    broken = set(rng.permutation(count)[: round(count * broken_share)].tolist())
    specs: list[TrapSpec] = []
    kinds_used = 0
    for number in range(count):
        width, height, _ = sizes[int(rng.choice(len(sizes), p=weights / weights.sum()))]
        if rng.random() < portrait_share:
            width, height = height, width
        # A PNG of 12 megapixels of sensor noise is 25 MB: no camera sends that.
        png = rng.random() < png_share and max(width, height) <= 2048
        spoiled: Broken | None = None
        if number in broken:
            spoiled = BROKEN_KINDS[kinds_used % len(BROKEN_KINDS)]
            kinds_used += 1
        specs.append(
            TrapSpec(
                seed=int(rng.integers(0, 2**31)),
                width=width,
                height=height,
                format="png" if png else "jpeg",
                broken=spoiled,
                insects=insects,
                background=str(rng.choice(backgrounds)),
                light=str(rng.choice(lights)),
            )
        )
    return tuple(specs)
