"""The built-in pipelines: which networks they use, and how they are registered."""

from __future__ import annotations

from typing import Any, Final

from worker.pipelines.detection import Algorithm

DETECTOR: Final = Algorithm(
    name="Trap sheet detector",
    key="trap_sheet_detector",
    task_type="localization",
    description="Finds insects on a light sheet: centre and size maps of a small convolutional network.",
)
BINARY: Final = Algorithm(
    name="Moth or nonmoth",
    key="moth_binary_classifier",
    task_type="classification",
    description="Tells moths from other insects.",
    labels=("moth", "nonmoth"),
)
SPECIES: Final = Algorithm(
    name="Trap moth species",
    key="trap_species_classifier",
    task_type="classification",
    description="Names the species of a moth of the synthetic trap images.",
    labels=("plain_moth", "banded_moth", "eyed_moth"),
)

_PIPELINES: Final[dict[str, tuple[str, str, tuple[Algorithm, ...]]]] = {
    "moth_binary": (
        "Moth or nonmoth",
        "Finds insects and tells moths from other insects.",
        (DETECTOR, BINARY),
    ),
    "trap_species": (
        "Trap moth species",
        "Finds insects, tells moths from other insects, and names the species of the moths.",
        (DETECTOR, BINARY, SPECIES),
    ),
}

PIPELINES: Final = tuple(_PIPELINES)


def algorithms(slug: str) -> tuple[Algorithm, ...]:
    """The networks of a pipeline, in the order in which they run.

    Raises:
        KeyError: no such pipeline; the text names those there are.
    """
    return _entry(slug)[2]


def describe(slug: str) -> dict[str, Any]:
    """The registration of a pipeline (`POST /projects/{id}/pipelines/`).

    Raises:
        KeyError: no such pipeline; the text names those there are.
    """
    name, description, used = _entry(slug)
    return {
        "name": name,
        "slug": slug,
        "version": 1,
        "description": description,
        "algorithms": [algorithm.to_api() for algorithm in used],
    }


def _entry(slug: str) -> tuple[str, str, tuple[Algorithm, ...]]:
    if slug not in _PIPELINES:
        raise KeyError(f"no pipeline {slug!r}; there are {', '.join(PIPELINES)}")
    return _PIPELINES[slug]
