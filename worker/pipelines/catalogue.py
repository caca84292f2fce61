"""The built-in pipelines: which networks they use, and how they are registered."""

from __future__ import annotations

from typing import Any, Final

from worker.pipelines.detection import Algorithm
from worker.pipelines.spec import DetectorSpec, Follows, PipelineSpec, StageSpec

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

BUILT_IN: Final = {
    spec.slug: spec
    for spec in (
        PipelineSpec(
            slug="moth_binary",
            name="Moth or nonmoth",
            description="Finds insects and tells moths from other insects.",
            detector=DetectorSpec(DETECTOR),
            stages=(StageSpec(BINARY),),
        ),
        PipelineSpec(
            slug="trap_species",
            name="Trap moth species",
            description="Finds insects, tells moths from other insects, and names the species of the moths.",
            detector=DetectorSpec(DETECTOR),
            stages=(StageSpec(BINARY), StageSpec(SPECIES, follows=Follows(0, "moth"))),
        ),
    )
}
PIPELINES: Final = tuple(BUILT_IN)


def built_in(slug: str) -> PipelineSpec:
    """A built-in pipeline.

    Raises:
        KeyError: no such pipeline; the text names those there are.
    """
    if slug not in BUILT_IN:
        raise KeyError(f"no pipeline {slug!r}; there are {', '.join(PIPELINES)}")
    return BUILT_IN[slug]


def describe(slug: str) -> dict[str, Any]:
    """The registration of a built-in pipeline (`POST /projects/{id}/pipelines/`).

    Raises:
        KeyError: no such pipeline; the text names those there are.
    """
    return built_in(slug).to_api()
