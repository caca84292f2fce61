"""A trap image from its spec: sheet, light, distractors, insects, sensor noise, file format."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from amidiag.soak.traps import distractors
from amidiag.soak.traps.broken import spoil
from amidiag.soak.traps.cloth import cloth, grain
from amidiag.soak.traps.fields import Field, Pixels, Rng
from amidiag.soak.traps.insects import draw
from amidiag.soak.traps.light import light
from amidiag.soak.traps.sketch import Tile, paint
from amidiag.soak.traps.spec import BACKGROUNDS, KIND_OF_SPECIES, LIGHTS, PlantedInsect, TrapImage, TrapSpec

_COARSE = 1024  # cells on the long side of the grid that the sheet is drawn on
_CHOICE, _SHEET, _INSECTS, _DUST = range(4)  # streams of the seed
_SMALLEST = 24.0  # pixels: the length under which an insect is no longer one


def render(spec: TrapSpec) -> TrapImage:
    """Draw `spec`. Deterministic; 4096×3072 takes about half a second, 640×480 some tens of milliseconds.

    The sheet, the insects and the dust come from separate streams of the seed: the same spec
    with `insects=(0, 0)` is the same sheet without insects.
    """
    content_type = f"image/{spec.format}"
    if spec.broken in ("empty", "html", "not_an_image"):
        data, content_type = spoil(b"", content_type, spec.broken, spec.seed)
        return TrapImage(data, content_type, spec.width, spec.height, ())
    pixels, insects = paint_scene(spec)
    data = _encode(pixels, spec)
    if spec.broken is not None:
        data, content_type = spoil(data, content_type, spec.broken, spec.seed)
        insects = ()
    return TrapImage(data, content_type, spec.width, spec.height, insects)


def paint_scene(spec: TrapSpec) -> tuple[Pixels, tuple[PlantedInsect, ...]]:
    """The image of `spec` before it is encoded, (height, width, 3), with its truth. Ignores `broken`."""
    choice, sheet_rng, dust_rng = (np.random.default_rng([spec.seed, s]) for s in (_CHOICE, _SHEET, _DUST))
    family = spec.background or str(choice.choice(BACKGROUNDS))
    lamp = spec.light or str(choice.choice(LIGHTS))
    noise = float(choice.uniform(1.5, 4.0)) * (1.6 if lamp == "dusk" else 1.0)
    tile = grain(family, sheet_rng, noise)
    # Kept free at both ends of the range, so that the noise can be added as bytes without overflow.
    reserve = int(np.abs(tile.astype(np.int16)).max())

    step = max(1, -(-max(spec.width, spec.height) // _COARSE))
    rows, columns = -(-spec.height // step), -(-spec.width // step)
    sheet = cloth(family, sheet_rng, rows, columns)
    if spec.distractors:
        distractors.stain(sheet, sheet_rng)
    lit = light(lamp, sheet_rng, rows, columns)
    sheet *= lit
    coarse = Image.fromarray(_bytes(sheet, reserve))
    pixels: Pixels = np.array(
        coarse.resize((spec.width, spec.height), Image.Resampling.BILINEAR) if step > 1 else coarse
    )
    if spec.distractors:
        distractors.litter(pixels, dust_rng, reserve)
    insects = _plant(pixels, lit, spec, reserve)
    _add_grain(pixels, tile)
    return pixels, insects


def truth(spec: TrapSpec) -> tuple[PlantedInsect, ...]:
    """What is planted in the image of `spec`, without drawing the image: the insects of `render(spec)`."""
    if spec.broken is not None:
        return ()
    return tuple(insect for _, insect in _placed(spec))


def _plant(pixels: Pixels, lit: Field, spec: TrapSpec, reserve: int) -> tuple[PlantedInsect, ...]:
    """Draw the insects onto `pixels`, and say where they are."""
    height, width = pixels.shape[:2]
    planted: list[PlantedInsect] = []
    for tile, insect in _placed(spec):
        x, y = int(insect.bbox[0]), int(insect.bbox[1])
        h, w = tile.opacity.shape
        glow = lit[(y + h // 2) * lit.shape[0] // height, (x + w // 2) * lit.shape[1] // width]
        region = pixels[y : y + h, x : x + w]
        alpha = tile.opacity[:, :, None]
        mixed = region * (1 - alpha) + alpha * np.float32(255) * tile.colour * glow
        region[:] = np.clip(mixed, reserve, 255 - reserve).astype(np.uint8)
        planted.append(insect)
    return tuple(planted)


def _placed(spec: TrapSpec) -> Iterator[tuple[Tile, PlantedInsect]]:
    """The insects of `spec` where there is room for them, each with the tile that shows it."""
    rng = np.random.default_rng([spec.seed, _INSECTS])
    short = min(spec.height, spec.width)
    least = max(_SMALLEST, spec.insect_size[0] * short)
    most = max(least * 1.3, spec.insect_size[1] * short)
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(int(rng.integers(spec.insects[0], spec.insects[1] + 1))):
        # First the kind, then a species of it: both kinds are equally frequent.
        kind = "moth" if rng.random() < 0.5 else "nonmoth"
        species = str(rng.choice([name for name, of in KIND_OF_SPECIES.items() if of == kind]))
        size = float(np.exp(rng.uniform(np.log(least), np.log(most))))
        tile = paint(draw(species, rng), float(rng.uniform(0, 2 * np.pi)), size, 0.06, rng)
        place = _free_place(tile, taken, spec.width, spec.height, rng)
        if place is None:
            continue
        x, y = place
        h, w = tile.opacity.shape
        taken.append((float(x), float(y), float(x + w), float(y + h)))
        yield tile, PlantedInsect(KIND_OF_SPECIES[species], species, taken[-1])


def _free_place(
    tile: Tile,
    taken: list[tuple[float, float, float, float]],
    width: int,
    height: int,
    rng: Rng,
) -> tuple[int, int] | None:
    """A top left corner where `tile` lies inside the image, clear of `taken`; None after 40 tries."""
    h, w = tile.opacity.shape
    if w + 4 > width or h + 4 > height:
        return None
    for _ in range(40):
        x, y = int(rng.integers(2, width - w - 1)), int(rng.integers(2, height - h - 1))
        gap = 2 + max(h, w) // 20
        if all(
            x + w + gap <= x1 or x2 + gap <= x or y + h + gap <= y1 or y2 + gap <= y
            for x1, y1, x2, y2 in taken
        ):
            return x, y
    return None


def _add_grain(pixels: Pixels, tile: NDArray[np.int8]) -> None:
    """Add the repeating `tile` in place: unsigned wrap-around is signed addition, `reserve` rules out overflow."""
    side = tile.shape[0]
    signed = tile.view(np.uint8)
    for y in range(0, pixels.shape[0], side):
        for x in range(0, pixels.shape[1], side):
            region = pixels[y : y + side, x : x + side]
            region += signed[: region.shape[0], : region.shape[1]]


def _bytes(field: Field, reserve: int) -> Pixels:
    levels: Pixels = np.clip(field * np.float32(255), reserve, 255 - reserve).astype(np.uint8)
    return levels


def _encode(pixels: Pixels, spec: TrapSpec) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if spec.format == "jpeg":
        image.save(buffer, "JPEG", quality=spec.quality)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
