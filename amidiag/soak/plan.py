"""What each poll of a soak finds: drawn from the recipe's seed, so that every arm sees the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from amidiag.soak.recipe import Load
from amidiag.soak.traps import BROKEN_KINDS, TrapSpec


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """A job that a poll lists; without images it is listed but hands out no task."""

    pipeline: str
    images: tuple[TrapSpec, ...]


def plan(load: Load, seed: int) -> Iterator[tuple[PlannedJob, ...]]:
    """The jobs that each poll lists, for `load.warm_up + load.cycles` polls."""
    rng = random.Random(seed)
    kinds, shares = list(load.shares), list(load.shares.values())
    for _ in range(load.warm_up + load.cycles):
        kind = rng.choices(kinds, shares)[0]
        jobs = 0 if kind == "no_job" else rng.choice(load.jobs_per_poll)
        yield tuple(_job(load, rng, empty=kind == "empty_job") for _ in range(jobs))


def _job(load: Load, rng: random.Random, *, empty: bool) -> PlannedJob:
    count = 0 if empty else rng.choice(load.images_per_job)
    return PlannedJob(rng.choice(load.pipelines), tuple(_image(load, rng) for _ in range(count)))


def _image(load: Load, rng: random.Random) -> TrapSpec:
    width, height = rng.choice(load.sizes)
    broken = rng.choice(BROKEN_KINDS) if rng.random() < load.broken_share else None
    seed = rng.randrange(2**31) if load.distinct_images == 0 else rng.randrange(load.distinct_images)
    return TrapSpec(seed=seed, width=width, height=height, format=rng.choice(load.formats), broken=broken)
