"""What only `ami worker tune` has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TuneMachine:
    """What bounds the worker here. Sizes in bytes; None is what could not be read, or no limit.

    `budget` is what `AMI_MEMORY_BUDGET` comes to, `budget_why` that in words; `dev_shm_room` what is free there.
    """

    memory_total: int | None
    memory_available: int | None
    cgroup_limit: int | None
    cgroup_used: int | None
    dev_shm_size: int | None
    dev_shm_room: int | None
    cpus: int
    accelerator: str | None
    budget: int | None
    budget_why: str


@dataclass(frozen=True, slots=True)
class TuneSample:
    """Real tasks that were worked on and answered. Times are seconds per image, wall-clock.

    `pixels`: of a rather large image, the mean of the larger half. `download_s` is the share of an image where so
    many as `downloads_at_once` were under way. `parent_bytes`: private memory of the worker
    with its pipeline; `work_bytes`: what the pipeline needed besides, for each image that it took at once.
    """

    job_id: int
    pipeline: str
    images: int
    errors: int
    pixels: int
    largest_pixels: int
    file_bytes: int
    download_s: float
    downloads_at_once: int
    decode_s: float
    inference_s: float
    parent_bytes: int
    work_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryForecast:
    """Peak bytes as the memory model has them; `math` says how, a line each."""

    dev_shm: int
    parent: int
    loaders: int
    helpers: int
    pinned: int
    total: int
    math: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TunedSetting:
    """One recommendation. Values are written as in an `.env` file; `source` is where `current` comes from."""

    setting: str
    value: str
    current: str
    source: str
    why: str


@dataclass(frozen=True, slots=True)
class TuneData:
    """What `ami worker tune` has. `sample` is None where there was no task: then nothing is recommended.

    `now` and `then`: the forecast with the settings as they are, and as recommended. `written`: names of the
    settings that were put into the file `written_to`.
    """

    machine: TuneMachine | None = None
    sample: TuneSample | None = None
    recommended: tuple[TunedSetting, ...] = ()
    now: MemoryForecast | None = None
    then: MemoryForecast | None = None
    written_to: str | None = None
    written: tuple[str, ...] = ()
