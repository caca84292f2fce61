"""Trap images: the same from the same spec, true boxes, broken where asked."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from amidiag.soak.traps import (
    BACKGROUNDS,
    BROKEN_KINDS,
    KIND_OF_SPECIES,
    LIGHTS,
    TrapSpec,
    load_mix,
    render,
    truth,
)


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_equal_specs_give_equal_bytes(form: str) -> None:
    first = render(TrapSpec(seed=11, width=640, height=480, format=form))
    again = render(TrapSpec(seed=11, width=640, height=480, format=form))
    other = render(TrapSpec(seed=12, width=640, height=480, format=form))
    assert first == again
    assert first.data != other.data


def test_another_process_renders_the_same() -> None:
    """The server and the judge of its answers are two processes: hash seeds must not matter."""
    program = (
        "import hashlib; from amidiag.soak.traps import TrapSpec, render;"
        "print(hashlib.sha256(render(TrapSpec(seed=5, width=640, height=480)).data).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    here = hashlib.sha256(render(TrapSpec(seed=5, width=640, height=480)).data).hexdigest()
    assert there.stdout.strip() == here


def test_rendering_needs_no_torch() -> None:
    program = (
        "import sys; from amidiag.soak.traps import TrapSpec, render; from amidiag.soak.traps.score import score;"
        "render(TrapSpec(seed=1, width=640, height=480)); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("width", "height", "form"),
    [(640, 480, "jpeg"), (480, 640, "png"), (1024, 768, "png"), (4096, 3072, "jpeg"), (3072, 4096, "jpeg")],
)
def test_the_bytes_are_an_image_of_the_size_and_format_asked_for(width: int, height: int, form: str) -> None:
    trap = render(TrapSpec(seed=3, width=width, height=height, format=form))
    with Image.open(io.BytesIO(trap.data)) as image:
        image.load()
        assert (image.size, image.format, trap.content_type) == (
            (width, height),
            form.upper(),
            f"image/{form}",
        )


@pytest.mark.parametrize(("seed", "background"), list(enumerate(BACKGROUNDS)))
def test_boxes_hold_every_changed_pixel_and_are_tight(seed: int, background: str) -> None:
    """The same sheet with and without insects differs inside the boxes only, and up to each box's four sides."""
    common = {
        "seed": seed,
        "width": 1024,
        "height": 768,
        "format": "png",
        "background": background,
        "light": LIGHTS[seed % len(LIGHTS)],
    }
    trap = render(TrapSpec(**common, insects=(10, 10)))
    bare = render(TrapSpec(**common, insects=(0, 0)))
    changed = np.abs(decoded(trap.data) - decoded(bare.data)).max(axis=2) > 0
    assert len(trap.insects) >= 8
    assert bare.insects == ()
    outside = changed.copy()
    for insect in trap.insects:
        x1, y1, x2, y2 = (int(value) for value in insect.bbox)
        assert 0 <= x1 < x2 <= 1024
        assert 0 <= y1 < y2 <= 768
        inside = changed[y1:y2, x1:x2]
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        slack = (rows[0], inside.shape[0] - 1 - rows[-1], columns[0], inside.shape[1] - 1 - columns[-1])
        assert max(slack) <= 1, f"{insect} is not tight: {slack}"
        outside[y1:y2, x1:x2] = False
    assert not outside.any()


def test_insects_are_of_both_kinds_all_species_and_the_sizes_asked_for() -> None:
    species: set[str] = set()
    for spec in load_mix(4, 12, broken_share=0, max_side=1600, insects=(8, 12)):
        for insect in render(spec).insects:
            species.add(insect.species)
            assert insect.kind == KIND_OF_SPECIES[insect.species]
            longer = max(insect.bbox[2] - insect.bbox[0], insect.bbox[3] - insect.bbox[1])
            short = min(spec.width, spec.height)
            assert 0.75 * max(24, 0.015 * short) <= longer <= max(24 * 1.3, 0.10 * short) + 2
    assert species == set(KIND_OF_SPECIES)


def test_the_number_of_insects_is_in_the_range() -> None:
    assert len(render(TrapSpec(seed=2, width=1024, height=768, insects=(7, 7))).insects) == 7
    counts = {len(render(TrapSpec(seed=s, width=640, height=480)).insects) for s in range(25)}
    assert min(counts) <= 2
    assert 9 <= max(counts) <= 12


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_a_truncated_image_opens_but_does_not_load(form: str) -> None:
    trap = render(TrapSpec(seed=1, width=640, height=480, format=form, broken="truncated"))
    assert trap.insects == ()
    with Image.open(io.BytesIO(trap.data)) as image, pytest.raises(OSError, match=r"truncated|broken"):
        image.load()


@pytest.mark.parametrize("broken", ["empty", "html", "not_an_image"])
def test_other_broken_bytes_are_no_image(broken: str) -> None:
    trap = render(TrapSpec(seed=1, width=640, height=480, broken=broken))
    assert trap.insects == ()
    assert trap.content_type == ("text/html; charset=utf-8" if broken == "html" else "image/jpeg")
    assert (len(trap.data) == 0) == (broken == "empty")
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(trap.data))


def test_one_pixel_and_narrow_images_can_be_made() -> None:
    for width, height in ((1, 1), (1, 500), (2000, 3), (20, 20)):
        trap = render(TrapSpec(seed=0, width=width, height=height, format="png", insects=(5, 5)))
        assert decoded(trap.data).shape == (height, width, 3)
        assert trap.insects == ()


def test_the_mix_is_mixed() -> None:
    specs = load_mix(8, 200)
    assert specs == load_mix(8, 200)
    assert specs != load_mix(9, 200)
    broken = [spec.broken for spec in specs if spec.broken]
    assert len(broken) == 20
    assert set(broken) == set(BROKEN_KINDS)
    assert {spec.format for spec in specs} == {"jpeg", "png"}
    assert {spec.background for spec in specs} == set(BACKGROUNDS)
    assert {spec.light for spec in specs} == set(LIGHTS)
    assert max(max(spec.width, spec.height) for spec in specs) == 4096
    assert any(spec.height > spec.width for spec in specs)
    assert len({spec.seed for spec in specs}) == 200
    assert max(max(s.width, s.height) for s in load_mix(8, 50, max_side=1024)) == 1024


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"format": "gif"}, "gif"),
        ({"broken": "melted"}, "melted"),
        ({"background": "moon"}, "moon"),
        ({"light": "sun"}, "sun"),
        ({"insects": (5, 2)}, "insects"),
        ({"width": 0}, "0x480"),
        ({"seed": -1}, "-1"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TrapSpec(**{"seed": 1, "width": 640, "height": 480, **wrong})


def test_truth_is_that_of_the_drawn_image() -> None:
    for seed in range(6):
        spec = TrapSpec(seed=seed, width=640, height=480)
        assert truth(spec) == render(spec).insects
    assert truth(TrapSpec(seed=1, width=640, height=480, broken="truncated")) == ()
