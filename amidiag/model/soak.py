"""What only `soak` and `gate` have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amidiag.model.process import Counters
from amidiag.model.words import CheckOutcome, VerdictKind


@dataclass(frozen=True, slots=True)
class Certificate:
    """Fewer than `events_per_cycle_bound` leak events per cycle, at `confidence`, after `cycles` without one."""

    cycles: int
    events_per_cycle_bound: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Detections against what was planted, at IoU 0.5. Shares are None where there was nothing to divide by."""

    precision: float | None
    recall: float | None
    kind_accuracy: float | None
    planted: int
    found: int
    matched: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The tasks of a soak by what became of them; `quality` is None where no image held an insect."""

    tasks: int
    answered_once: int
    answered_twice: int
    lost: int
    unanswered: int
    errors: int
    broken: int
    broken_answered_as_result: int
    intact_answered_as_error: int
    redelivered: int
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class ResourceValues:
    """A series as it was sampled, one value per cycle, None where it was not read."""

    resource: str
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class FlatCheck:
    """Whether one resource was as flat as its arm demands, and the figures behind it."""

    resource: str
    outcome: CheckOutcome
    text: str


@dataclass(frozen=True, slots=True)
class ArmData:
    """One arm of a soak. `shown` is whether it met `expected`, None where nothing is expected of it.

    `time_compression` is how many times faster its cycles followed each other than an idle worker polls.
    """

    name: str
    pid: int | None
    verdict: VerdictKind
    expected: VerdictKind | None
    shown: bool | None
    cycles: int
    seconds: float
    time_compression: float
    certificate: Certificate | None
    counters: Counters | None
    faults: Mapping[str, str]
    settings: Mapping[str, Any]
    answered: Answered
    series: tuple[ResourceValues, ...]
    worker_exit_status: int
    flat: tuple[FlatCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One rule on one arm: how it ended, the figures behind it, and how long the arm took in seconds."""

    arm: str
    name: str
    outcome: CheckOutcome
    message: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SoakData:
    """What only `soak` and `gate` have; `gate` is None for `soak`."""

    recipe: str
    seed: int
    answers: str | None
    arms: tuple[ArmData, ...]
    gate: tuple[GateCheck, ...] | None = None


@dataclass(frozen=True, slots=True)
class RecipeList:
    """What `soak list` has: the names of the shipped recipes."""

    recipes: tuple[str, ...]
