"""Recipes: what a soak runs. `recipe_file` reads and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from amidiag.model import Certificate, VerdictKind

Format = Literal["jpeg", "png"]


class RecipeError(Exception):
    """A recipe that cannot be run. The text names the file, the line and the key, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the polls of one arm find.

    `cycles` bounds the number of polls; `shares` says how often a poll finds no job, a listed job
    without tasks, or a job with images. With `distinct_images` = 0 every image is new; otherwise the
    load repeats that many, which saves the time of drawing them.
    """

    cycles: int
    warm_up: int
    seed: int
    shares: Mapping[str, float]
    jobs_per_poll: tuple[int, ...]
    images_per_job: tuple[int, ...]
    sizes: tuple[tuple[int, int], ...]
    formats: tuple[Format, ...]
    broken_share: float
    distinct_images: int
    pipelines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Server:
    """How the embedded server behaves. Times in seconds."""

    visibility_timeout_s: float = 30.0
    max_deliver: int = 2


@dataclass(frozen=True, slots=True)
class Arm:
    """One experiment of a recipe: the worker's settings, when to stop, and what is expected to be shown.

    With `stop` = "end" all cycles are run and judged once: `resource` and each of `also_flat` must reach the
    certificate, and the memory of worker and tree may grow by no more than `memory_bytes_per_cycle`.
    """

    name: str
    settings: Mapping[str, str]
    stop: str
    resource: str
    certificate_events_per_cycle: float
    expect: VerdictKind | None
    faults: tuple[str, ...]
    also_flat: tuple[str, ...] = ()
    memory_bytes_per_cycle: int | None = None

    @property
    def demands_flat(self) -> tuple[str, ...]:
        """The resources of which each must reach the certificate; none unless `stop` is "end"."""
        return (self.resource, *self.also_flat) if self.stop == "end" else ()

    def certified_by(self, certificate: Certificate | None) -> bool:
        """Whether a certificate is as strict as this arm asks for."""
        return (
            certificate is not None
            and certificate.events_per_cycle_bound <= self.certificate_events_per_cycle
        )

    @property
    def tolerance(self) -> float | None:
        """Growth per cycle below which `resource` counts as stable: as fine as the certificate that is asked for."""
        byte = self.resource.removeprefix("tree.").startswith(("memory", "shm"))
        return None if byte else self.certificate_events_per_cycle


@dataclass(frozen=True, slots=True)
class Accept:
    """What a run must reach to be accepted: greatest counts of tasks, least qualities. None: not asked.

    Losing tasks is never right, so no recipe needs to say so.
    """

    lost: int = 0
    answered_twice: int = 0
    unanswered: int = 0
    broken_answered_as_result: int | None = None
    intact_answered_as_error: int | None = None
    precision: float | None = None
    recall: float | None = None
    kind_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe. `answers` holds where every arm's verdict is `answered_by`."""

    name: str
    path: str
    title: str
    about: str
    answers: str
    answered_by: VerdictKind | None
    command: tuple[str, ...]
    load: Load
    server: Server
    accept: Accept
    arms: tuple[Arm, ...]
