"""The words of the embedded Antenna server: what a controller tells it and what it tells back.

Times are seconds, sizes are bytes. Everything here is plain data; `codec` turns it into JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

if TYPE_CHECKING:
    from amidiag.soak.traps import TrapSpec

Route = Literal["jobs", "tasks", "result", "projects", "pipelines", "images"]
FaultKind = Literal[
    "503",
    "401",
    "404",
    "429",
    "slow",
    "cut",
    "reset",
    "stall",
    "half-closed",
    "down",
    "clock-jump",
    "clock-stop",
]
Result = dict[str, Any]
"""`R` of ANTENNA_API.md: a pipeline's result, or `{"error": text, "image_id": id or null}`."""

ROUTES: tuple[Route, ...] = get_args(Route)
_DEFAULT_ROUTES: dict[FaultKind, tuple[Route, ...]] = {
    "503": ("jobs", "tasks", "result"),
    "401": ("jobs", "tasks", "result", "projects", "pipelines"),
    "404": ("images",),
    "429": ("jobs", "tasks", "result"),
    "slow": ("images",),
    "cut": ("images",),
    "reset": ("jobs", "tasks", "result"),
    "stall": ("jobs", "tasks", "result"),
    "half-closed": ("jobs", "tasks", "result"),
    "down": (),
    "clock-jump": (),
    "clock-stop": (),
}
STATUS_KINDS: tuple[FaultKind, ...] = ("503", "401", "404", "429")
"""A request that meets one has no effect."""
ANSWER_KINDS: tuple[FaultKind, ...] = ("slow", "cut", "reset", "stall", "half-closed")
"""A request that meets one has had its effect, whatever its client gets to see."""
SERVER_KINDS: tuple[FaultKind, ...] = ("down", "clock-jump", "clock-stop")
"""Of the server as a whole, at once, not of a request."""
_TIMED: tuple[FaultKind, ...] = ("slow", "stall", "half-closed", *SERVER_KINDS)


class AntennaServerError(RuntimeError):
    """The embedded server could not be started, has died, or refused what it was told."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How the queue behaves. Defaults are those of the real server (ANTENNA_API.md).

    `seed` fixes the shuffling of jobs and the faults that come with a probability. Raises
    ValueError where a value makes no sense.
    """

    token: str = field(repr=False)
    visibility_timeout_s: float = 30.0
    max_deliver: int = 2
    seed: int = 0
    projects: tuple[str, ...] = ("amidiag soak",)
    image_cache_bytes: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.token or not self.token.isascii() or self.token.split() != [self.token]:
            raise ValueError("token: some ASCII text without blanks is wanted")
        if not self.visibility_timeout_s > 0:
            raise ValueError(f"visibility_timeout_s: must be over 0, not {self.visibility_timeout_s}")
        if self.max_deliver < 1:
            raise ValueError(f"max_deliver: must be 1 or more, not {self.max_deliver}")
        if self.image_cache_bytes < 0:
            raise ValueError(f"image_cache_bytes: must be 0 or more, not {self.image_cache_bytes}")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """A trap image, with what goes wrong each time that it is downloaded.

    `missing` answers 404, `cut` ends the connection in the middle of the body, `slow_s` spreads
    the body over so many seconds. Faults inside the file are the `TrapSpec`'s own (`broken`). With `path` the
    image is that file as it is, and `trap` says what is in it.
    """

    trap: TrapSpec
    missing: bool = False
    cut: bool = False
    slow_s: float = 0.0
    path: str | None = None


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job: one task per image. Without images it has no task and is complete from the start.

    `list_always` keeps it in `GET /jobs` when it is complete: a job that is listed though it has
    nothing to hand out (the state of ami-data-companion issue #145).
    """

    pipeline: str
    images: tuple[TrapSpec | ImageSpec, ...] = ()
    list_always: bool = False

    def __post_init__(self) -> None:
        if not self.pipeline:
            raise ValueError("pipeline: a slug is wanted")


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """Something that goes wrong on purpose.

    | kind | what the worker meets | default `on` |
    | --- | --- | --- |
    | 503 | this status; the request has no effect | jobs, tasks, result |
    | 401 | the same | all but images |
    | 404 | the same | images |
    | 429 | the same, with `Retry-After: seconds` where `seconds` is given (whole ones) | jobs, tasks, result |
    | slow | the body takes `seconds` to arrive | images |
    | cut | half the body, then the end of the connection; the request **has** had its effect | images |
    | reset | the same with an RST for an end | jobs, tasks, result |
    | stall | no byte of the answer for `seconds`; the request **has** had its effect | jobs, tasks, result |
    | half-closed | no answer but the end of the server's half; the rest stays open for `seconds` | as stall |
    | down | every connection is cut and new ones are refused for `seconds`: a restart; the queue stays | all |
    | clock-jump | the queue's clock is `seconds` ahead from now on: reservations run out so much earlier | the queue |
    | clock-stop | the queue's clock stands still for `seconds` | the queue |

    It holds for the next `requests` requests, or with `probability` for each one (both: with that
    probability, at most so often; neither: until `clear_faults()`). `down` and the clock's take only `seconds`; `down`
    is `on` images, which have a port of their own, on the calls, which share one, or on all.
    Raises ValueError for a combination that means nothing.
    """

    kind: FaultKind
    on: tuple[Route, ...] = ()
    requests: int | None = None
    probability: float | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in _DEFAULT_ROUTES:
            raise ValueError(f"kind: one of {', '.join(_DEFAULT_ROUTES)} is wanted, not {self.kind!r}")
        if unknown := [route for route in self.on if route not in ROUTES]:
            raise ValueError(f"on: {unknown[0]!r} is none of {', '.join(ROUTES)}")
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests: must be 1 or more, not {self.requests}")
        if self.probability is not None and not 0 < self.probability <= 1:
            raise ValueError(f"probability: must be over 0 and at most 1, not {self.probability}")
        if self.seconds < 0 or (self.kind != "429" and (self.kind in _TIMED) != (self.seconds > 0)):
            raise ValueError(f"seconds: {self.seconds} means nothing for the fault {self.kind!r}")
        if self.kind in SERVER_KINDS and (
            (self.on and self.kind != "down") or self.requests or self.probability
        ):
            raise ValueError(f"{self.kind}: takes only seconds")

    @property
    def routes(self) -> tuple[Route, ...]:
        """The calls that it hits: `on`, or the default of its kind."""
        return self.on or _DEFAULT_ROUTES[self.kind]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """Tasks of one job, or of all: `total` = `waiting` + `reserved` + `results` + `errors` + `lost`.

    `redelivered` counts deliveries beyond the first, `answered_twice` answers beyond the first,
    `late` first answers that came after the visibility time of their delivery, `wrong_image`
    answers that name another image than their task's.
    """

    total: int = 0
    waiting: int = 0
    reserved: int = 0
    results: int = 0
    errors: int = 0
    lost: int = 0
    redelivered: int = 0
    answered_twice: int = 0
    late: int = 0
    wrong_image: int = 0

    @property
    def answered(self) -> int:
        """Tasks with a result or an error."""
        return self.results + self.errors


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState(TaskCounts):
    """One job now. Complete: each of its tasks is answered or lost."""

    job_id: int
    pipeline: str
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState(TaskCounts):
    """What the server has seen: the tasks of all jobs together, and of each job.

    `polls` counts `GET /jobs` answered with 200; `polls_waiting` those held now. `requests` is by
    call (`"GET jobs"`, `"POST tasks"`, …, `"other"`), then by status. Bytes are those of bodies.
    `unknown_replies` counts posted results whose reply subject was never handed out for that job;
    `faults` how often each kind of fault was met.
    """

    jobs: Mapping[int, JobState]
    polls: int
    polls_waiting: int
    unauthorized: int
    unknown_replies: int
    requests: Mapping[str, Mapping[int, int]]
    faults: Mapping[str, int]
    bytes_in: int
    bytes_out: int
    connections_open: int
    connections_total: int


class Answer(NamedTuple):
    """One image of a job: its first answer (None: none yet) and how many came."""

    image_id: str
    spec: TrapSpec
    result: Result | None
    times: int


class Delivery(NamedTuple):
    """One time that a task was handed out. Times are of CLOCK_MONOTONIC, which all processes of a host share.

    `unheard`: a fault kept the answer from the worker, which so never knew that it had the task. `until`: when the
    queue gave it up, None where it was answered before or still may be.
    """

    at: float
    until: float | None
    unheard: bool


class TaskStory(NamedTuple):
    """What became of one task: `fate` is waiting, reserved, results, errors or lost.

    `differing` of its `answers` said something else than the first: a client that was not told that its answer
    arrived can only send the same again.
    """

    image_id: str
    fate: str
    answers: int
    differing: int
    deliveries: tuple[Delivery, ...]


@dataclass(frozen=True, slots=True)
class Registration:
    """A processing service as it registered itself: the projects it named, its pipelines by slug."""

    service_id: int
    projects: tuple[int, ...]
    pipelines: Mapping[str, Mapping[str, Any]]
