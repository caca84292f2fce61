"""Trap images from a seed, with the truth of what was planted in them: numpy and Pillow (extra `soak`)."""

from amidiag.soak.traps.render import render, truth
from amidiag.soak.traps.spec import (
    BACKGROUNDS,
    BROKEN_KINDS,
    HELD_OUT_BACKGROUNDS,
    HELD_OUT_LIGHTS,
    KIND_OF_SPECIES,
    LIGHTS,
    PlantedInsect,
    TrapImage,
    TrapSpec,
    load_mix,
)

__all__ = [
    "BACKGROUNDS",
    "BROKEN_KINDS",
    "HELD_OUT_BACKGROUNDS",
    "HELD_OUT_LIGHTS",
    "KIND_OF_SPECIES",
    "LIGHTS",
    "PlantedInsect",
    "TrapImage",
    "TrapSpec",
    "load_mix",
    "render",
    "truth",
]
