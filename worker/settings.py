"""Every `AMI_` setting of the worker, in one place: its default, its meaning, what is allowed.

Names, defaults and meaning are those of the public worker, so that an operator's `.env` carries over.
Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import multiprocessing
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic.fields import FieldInfo

from worker.sizes import SIZE_IN_WORDS, Size, parse_size

PREFIX = "AMI_"

# Variables of the public tool (its settings.py) that steer its desktop application and model choice.
UNUSED_UPSTREAM = frozenset(
    PREFIX + name
    for name in (
        "DATABASE_URL",
        "USER_DATA_PATH",
        "IMAGE_BASE_PATH",
        "LOCALIZATION_MODEL",
        "BINARY_CLASSIFICATION_MODEL",
        "SPECIES_CLASSIFICATION_MODEL",
        "FEATURE_EXTRACTOR",
        "INCLUDE_FEATURES",
        "INCLUDE_LOGITS",
        "MODEL_BASE_URL",
        "IMAGE_BASE_URL",
    )
)


_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")


def _setting(default: Any, doc: str, allowed: str, **limits: Any) -> Any:
    return Field(default, description=doc, json_schema_extra={"allowed": allowed}, **limits)


def _start_methods() -> str:
    return ", ".join(sorted(multiprocessing.get_all_start_methods()))


class _MustBeError(ValueError):
    """Its text is what the setting must be, where `allowed` in the setting's own words is not close enough."""


class WorkerSettings(BaseModel):
    """The effective settings. Built by `read`, which turns every mistake into one clear line.

    A plain model: `read` itself merges environment and `.env`, since it must say where each value came
    from and which variables nobody reads, which pydantic-settings does not tell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    antenna_api_base_url: str = _setting(
        "http://localhost:8000/api/v2",
        "Address of the Antenna API, including /api/v2.",
        "an http:// or https:// URL without a user name",
    )
    antenna_api_auth_token: SecretStr = _setting(
        SecretStr(""), "Token that Antenna gave to this worker. Never logged or shown.", "any text"
    )
    antenna_service_name: str = _setting(
        "AMI Data Companion",
        "Name under which the pipelines are registered; the host name is added to it.",
        "text that is not empty",
        min_length=1,
    )
    antenna_api_batch_size: int = _setting(
        24, "How many tasks (images) are reserved and loaded as one batch.", "a whole number ≥ 1", ge=1
    )
    pipelines: str = _setting(
        "",
        "Pipelines to work for, as a comma-separated list of slugs. Empty means all that there are: the built-in "
        "ones and those in AMI_MODELS_DIR.",
        "slugs separated by commas, or empty",
    )
    num_workers: int = _setting(
        1,
        "Loader processes that download and decode images. 0 means in the worker itself: then there is no "
        "start method, no time limit, no prefetch and no persistence.",
        "a whole number ≥ 0",
        ge=0,
    )
    localization_batch_size: int = _setting(
        8, "How many images the detector takes at once.", "a whole number ≥ 1", ge=1
    )
    classification_batch_size: int = _setting(
        20, "How many crops a classifier takes at once.", "a whole number ≥ 1", ge=1
    )
    classification_threshold: float = _setting(
        0.6, "Lowest score at which a classification counts.", "a number from 0 to 1", ge=0.0, le=1.0
    )
    antenna_api_dataloader_mp_context: str = _setting(
        "forkserver",
        "Start method of the loader processes. Empty means torch's default.",
        f"one of {_start_methods()}, or empty",
    )
    antenna_api_dataloader_timeout_s: float = _setting(
        300.0, "Longest wait for one batch, in seconds. 0 means no limit.", "a number ≥ 0", ge=0.0
    )
    antenna_api_dataloader_pin_memory: bool | None = _setting(
        None,
        "Copy batches into page-locked memory for a faster way to the device. Empty or auto means: on where "
        "there is an accelerator.",
        "true, false, auto or empty",
    )
    antenna_api_dataloader_prefetch_factor: int = _setting(
        4, "Batches that each loader process prepares ahead.", "a whole number ≥ 1", ge=1
    )
    antenna_api_dataloader_persistent_workers: bool = _setting(
        False, "Keep the loader processes when an iteration has ended.", "true or false"
    )
    antenna_api_dataloader_download_threads: int = _setting(
        8, "Threads in each loader process that download and decode.", "a whole number ≥ 1", ge=1
    )
    antenna_api_dataloader_lifetime: str = _setting(
        "worker",
        "How long a loader lives. worker: one serves many jobs, and none is built before there is a task. job: "
        "one per listed job on every poll, tasks or not, as the public worker does.",
        "worker or job",
    )
    avoid_torch_atexit_leak: bool = _setting(
        True,
        "With pinned memory and persistent loader processes, torch up to 2.12.1 keeps two pipe ends of each of "
        "them until the worker exits (pytorch #91252). Take its exit callbacks back where it does so.",
        "true or false",
    )
    visibility_timeout_s: float = _setting(
        30.0,
        "After how many seconds the server hands a task out again that was taken and not answered. No more "
        "tasks are taken than can be answered in this time at the measured speed. 0 means no such limit, as in "
        "the public worker.",
        "a number ≥ 0",
        ge=0.0,
    )
    image_max_bytes: Size = _setting(
        512 * 1024**2,
        "Largest image file that is downloaded; a larger one is answered as an error.",
        SIZE_IN_WORDS,
        gt=0,
    )
    image_max_pixels: int = _setting(
        200_000_000,
        "Largest image, in pixels, that is decoded; a larger one is answered as an error.",
        "a whole number ≥ 1",
        ge=1,
    )
    image_timeout_s: float = _setting(
        120.0,
        "Longest time for the download of one image, in seconds, however slowly its bytes come; not more than two "
        "thirds of AMI_VISIBILITY_TIMEOUT_S, and at least 5, so that there is time to answer.",
        "a number > 0",
        gt=0.0,
    )
    image_cache_max_bytes: Size = _setting(
        64 * 1024**2,
        "Image files that each loader process keeps in memory for tasks that come again (redelivery, several "
        "pipelines). 0 means none, as in the public worker.",
        SIZE_IN_WORDS,
        ge=0,
    )
    staging_dir: str = _setting(
        "",
        "Directory into which images are downloaded ahead of their decoding, so that memory holds no more than "
        "the active batches however far ahead is loaded. Empty means none: they are kept in memory.",
        "a directory that exists or can be made, or empty",
    )
    staging_max_bytes: Size = _setting(
        8 * 1024**3,
        "Most that the staging directory may hold, of all workers that share it.",
        SIZE_IN_WORDS,
        gt=0,
    )
    memory_budget: str = _setting(
        "70%",
        "Memory that the worker with its loader processes may use: a size, or a share of what cgroup and host "
        "leave at its start. Batches in flight are held back and made smaller before it is passed. 0 means no "
        "budget, as in the public worker. Of several instances each has its part.",
        f"a percentage up to 100 %, {SIZE_IN_WORDS}, or 0",
    )
    autotune: bool = _setting(
        True,
        "Choose for each job, from the sizes of its images and the memory budget, how many images make a batch "
        "and how many batches are loaded ahead. What is set explicitly is not changed by it, but memory still "
        "bounds it. false: always the batch size and prefetch factor as set.",
        "true or false",
    )
    models_dir: str = _setting(
        "",
        "Directory with model files of your own, one folder with a manifest.toml for each pipeline. Empty means "
        "the built-in pipelines only.",
        "a directory, or empty",
    )
    max_resident_pipelines: int = _setting(
        0,
        "Most pipelines that stay in memory; the one not used for longest is given up first. 0 means all, as in "
        "the public worker.",
        "a whole number ≥ 0",
        ge=0,
    )
    instances: int = _setting(
        0,
        "Worker processes that `ami worker run` starts. 0 means one for each GPU, as the public worker does, "
        "and one where there is none.",
        "a whole number ≥ 0",
        ge=0,
    )
    cache_drain: bool = _setting(
        True,
        "Empty the caches of every process, loaders included, at the end of each job. The cache of image files, "
        "which has its own limit, stays.",
        "true or false",
    )
    antenna_max_pending_posts: int = _setting(
        5,
        "Batches whose results may wait to be posted before the next batch has to wait.",
        "a whole number ≥ 1",
        ge=1,
    )
    antenna_idle_sleep_seconds: float = _setting(
        5.0, "Pause before the next poll when no job handed out a task.", "a number ≥ 0", ge=0.0
    )
    antenna_unreachable_limit_s: float = _setting(
        600.0,
        "How long the server may give no usable answer before the worker ends with code 69.",
        "a number > 0",
        gt=0.0,
    )
    worker_watchdog_s: float = _setting(
        0.0,
        "Longest time that the worker may be at one thing (a batch, a model, a call) without getting on, in "
        "seconds; then it says where it hangs and ends with code 70. 0 means four times AMI_VISIBILITY_TIMEOUT_S "
        "(without one, twice AMI_IMAGE_TIMEOUT_S), and at least 120.",
        "a number ≥ 0",
        ge=0.0,
    )
    worker_drain_limit_s: float = _setting(
        60.0,
        "Longest time for posting what is done once the worker was told to drain, in seconds; what the server "
        "has not taken by then is kept in AMI_WORKER_SPOOL_DIR.",
        "a number ≥ 0",
        ge=0.0,
    )
    worker_spool_dir: str = _setting(
        "auto",
        "Directory for results that the server does not take now; they are posted first at the next start. auto "
        "means the service's own under systemd ($STATE_DIRECTORY), else ami-worker in $XDG_STATE_HOME or "
        "~/.local/state. Empty means none: results wait in memory only.",
        "a directory that exists or can be made, auto, or empty",
    )
    worker_spool_max_bytes: Size = _setting(
        1024**3, "Most that the results in AMI_WORKER_SPOOL_DIR may take.", SIZE_IN_WORDS, gt=0
    )
    worker_max_fds_percent: float = _setting(
        80.0,
        "Share of its FD limit at which the worker, or a loader process, is replaced: the work in hand is "
        "finished and posted, then the worker ends with code 75. 0 means never.",
        "a number from 0 to 100",
        ge=0.0,
        le=100.0,
    )
    worker_max_memory: str = _setting(
        "90%",
        "Memory of the worker with its loader processes at which it is replaced, in the same way: a size, or a "
        "share of what cgroup and host leave at its start. 0 means never. Of several instances each has its part.",
        f"a percentage up to 100 %, {SIZE_IN_WORDS}, or 0",
    )
    worker_max_age_s: float = _setting(
        0.0,
        "Age in seconds at which the worker is replaced, in the same way. 0 means never.",
        "a number ≥ 0",
        ge=0.0,
    )
    worker_max_jobs: int = _setting(
        0,
        "Jobs after which the worker is replaced, in the same way. 0 means never.",
        "a whole number ≥ 0",
        ge=0,
    )
    worker_log_format: str = _setting(
        "text", "How log lines are written: as text, or one JSON object each.", "text or json"
    )
    metrics_port: int = _setting(
        0,
        "Port on which the worker shows its counters and its health to Prometheus. 0 means none. Of several "
        "instances each takes the next one.",
        "a whole number from 0 to 65535",
        ge=0,
        le=65535,
    )
    metrics_address: str = _setting(
        "127.0.0.1",
        "Address on which AMI_METRICS_PORT is open. What is shown there is no secret, and whoever reaches it may "
        "read it: 0.0.0.0 or :: where Prometheus comes from another host.",
        "an IP address",
    )
    diag_trace: bool = _setting(
        False,
        "Keep from where this worker and its loader processes open FDs and shared memory, for `amidiag trace`.",
        "true or false",
    )

    @field_validator("antenna_api_base_url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        parts = urlsplit(value.strip())
        # A wrong port raises ValueError by itself.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("no such URL")
        if "@" in parts.netloc:
            raise ValueError("the address is logged and shown")
        if parts.query or parts.fragment:
            raise _MustBeError(
                "an http:// or https:// URL without ? and #, to which the paths of the API are added"
            )
        return value.strip().rstrip("/")

    @field_validator("antenna_api_auth_token")
    @classmethod
    def _fits_into_a_header(cls, value: SecretStr) -> SecretStr:
        # A secret that is read from a file often ends with a line break.
        token = value.get_secret_value().strip()
        if not (token.isascii() and token.isprintable()):
            # http.client would refuse it with an error that quotes it, in the log.
            raise _MustBeError("printable ASCII text, since it is sent in a header")
        return SecretStr(token)

    @field_validator("antenna_api_dataloader_mp_context")
    @classmethod
    def _is_start_method(cls, value: str) -> str:
        if value and value not in multiprocessing.get_all_start_methods():
            raise ValueError("this platform has no such start method")
        return value

    @field_validator("antenna_api_dataloader_pin_memory", mode="before")
    @classmethod
    def _may_be_auto(cls, value: object) -> object:
        return None if isinstance(value, str) and value.strip().lower() in ("", "auto") else value

    @field_validator("antenna_api_dataloader_lifetime")
    @classmethod
    def _is_lifetime(cls, value: str) -> str:
        if value not in ("worker", "job"):
            raise ValueError("no such lifetime")
        return value

    @field_validator("worker_log_format")
    @classmethod
    def _is_log_format(cls, value: str) -> str:
        if value not in ("text", "json"):
            raise ValueError("no such format")
        return value

    @field_validator("metrics_address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return str(ipaddress.ip_address(value.strip()))

    @field_validator("memory_budget", "worker_max_memory")
    @classmethod
    def _is_budget(cls, value: str) -> str:
        share = _SHARE.fullmatch(value.strip())
        if share is None:
            parse_size(value)
        elif not 0 <= float(share[1]) <= 100:
            raise ValueError("a share of more than all")
        return value.strip()

    @property
    def memory_share(self) -> float | None:
        """The budget as a share of what is available, 0 to 1; None where it is a size."""
        return _share(self.memory_budget)

    @property
    def memory_bytes(self) -> int | None:
        """The budget in bytes, 0 for none; None where it is a share."""
        return _bytes(self.memory_budget)

    @property
    def max_memory_share(self) -> float | None:
        """As `memory_share`, of the memory at which the worker is replaced."""
        return _share(self.worker_max_memory)

    @property
    def max_memory_bytes(self) -> int | None:
        """As `memory_bytes`, of the memory at which the worker is replaced."""
        return _bytes(self.worker_max_memory)

    @property
    def watchdog_s(self) -> float:
        """The effective limit of the watchdog, in seconds."""
        if self.worker_watchdog_s:
            return self.worker_watchdog_s
        # Without a visibility time it is an image's own limit that the longest wait for one follows.
        return max(4 * self.visibility_timeout_s or 2 * self.image_timeout_s, 120.0)

    @property
    def pipeline_slugs(self) -> tuple[str, ...]:
        """The slugs named in `AMI_PIPELINES`; empty means all."""
        return tuple(slug.strip() for slug in self.pipelines.split(",") if slug.strip())


def _share(amount: str) -> float | None:
    share = _SHARE.fullmatch(amount)
    return float(share[1]) / 100 if share else None


def _bytes(amount: str) -> int | None:
    return None if _share(amount) is not None else int(str(parse_size(amount)))


@dataclass(frozen=True, slots=True)
class Problem:
    """One setting that cannot be used. `value` is None where it must not be shown or there is none."""

    setting: str
    value: str | None
    allowed: str
    source: str

    def __str__(self) -> str:
        shown = self.setting if self.value is None else f"{self.setting}={self.value}"
        return f"{shown} ({self.source}): must be {self.allowed}"


class SettingsError(Exception):
    """The settings cannot be used; one `Problem` for each that is wrong. The worker ends with code 78.

    `unknown`: the variables that nobody reads, which may be what was meant.
    """

    def __init__(self, problems: Iterable[Problem], unknown: Iterable[UnknownSetting] = ()) -> None:
        self.problems = tuple(problems)
        self.unknown = tuple(unknown)
        super().__init__("\n".join(str(p) for p in self.problems))


@dataclass(frozen=True, slots=True)
class UnknownSetting:
    """An `AMI_` variable that nobody reads: a silently ignored setting has cost users days (FACTS 6)."""

    name: str
    nearest: str | None
    source: str

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{self.name} ({self.source}) is no setting of this worker and has no effect{hint}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings with where each came from: `environment`, the path of the `.env` file, or `default`."""

    settings: WorkerSettings
    sources: Mapping[str, str]
    unused: tuple[str, ...]
    unknown: tuple[UnknownSetting, ...]


def env_name(field: str) -> str:
    """`num_workers` → `AMI_NUM_WORKERS`."""
    return PREFIX + field.upper()


def fields() -> dict[str, FieldInfo]:
    """Every setting by its variable's name, in the order of the documentation."""
    return {env_name(name): info for name, info in WorkerSettings.model_fields.items()}


def allowed(info: FieldInfo) -> str:
    """What a setting may be, in words."""
    extra = info.json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""


def is_secret(info: FieldInfo) -> bool:
    """Whether a setting's value must never be shown."""
    return info.annotation is SecretStr


def read(env_file: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Read the settings from the environment, then `env_file` (else `.env` in the working directory).

    Raises:
        SettingsError: a value is wrong, or the file cannot be read.
    """
    variables = os.environ if environ is None else environ
    path = env_file if env_file is not None else Path(".env")
    in_file = _read_file(path, must_exist=env_file is not None)
    sources = _sources(variables, in_file, str(path))
    known = fields()
    strangers = sorted(name for name in sources if name not in known)
    unknown = tuple(
        UnknownSetting(name, _nearest(name, known), sources[name])
        for name in strangers
        if name not in UNUSED_UPSTREAM
    )
    try:
        settings = WorkerSettings.model_validate(_values(variables, in_file))
    except ValidationError as e:
        raise SettingsError(_problems(e, sources), unknown) from None
    return Loaded(
        settings=settings,
        sources={name: sources.get(name, "default") for name in known},
        unused=tuple(name for name in strangers if name in UNUSED_UPSTREAM),
        unknown=unknown,
    )


def public(settings: WorkerSettings, **effective: object) -> dict[str, Any]:
    """The settings by variable name, secrets left out; `effective` replaces fields by what they came to."""
    values = settings.model_dump() | effective
    return {env_name(f): v for f, v in values.items() if not is_secret(WorkerSettings.model_fields[f])}


def _read_file(path: Path, must_exist: bool) -> dict[str, str]:
    if not path.is_file() and not must_exist:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
        raise SettingsError([Problem("--env-file", str(path), "a readable file", str(reason))]) from None
    broken = [binding.original.line for binding in parse_stream(io.StringIO(text)) if binding.error]
    if broken:
        # python-dotenv would leave the line out, and the worker run without what it says.
        must_be = "NAME=value; is there a quote that is not closed?"
        raise SettingsError([Problem(f"line {line}", None, must_be, str(path)) for line in broken])
    # A name without = is no value: better refused or reported than silently ignored.
    return {k.upper(): v or "" for k, v in dotenv_values(stream=io.StringIO(text)).items()}


def _values(environ: Mapping[str, str], in_file: Mapping[str, str]) -> dict[str, str]:
    named = {k.upper(): v for k, v in environ.items()}
    merged = {**in_file, **named}
    return {f: merged[env_name(f)] for f in WorkerSettings.model_fields if env_name(f) in merged}


def _sources(environ: Mapping[str, str], in_file: Mapping[str, str], path: str) -> dict[str, str]:
    of_file = dict.fromkeys((k for k in in_file if k.startswith(PREFIX)), path)
    of_environ = dict.fromkeys((k.upper() for k in environ if k.upper().startswith(PREFIX)), "environment")
    return of_file | of_environ


def _problems(error: ValidationError, sources: Mapping[str, str]) -> list[Problem]:
    problems = []
    for one in error.errors(include_url=False):
        name = env_name(str(one["loc"][0]))
        info = fields()[name]
        value = None if is_secret(info) else _without_secrets(str(one["input"]))
        cause = one.get("ctx", {}).get("error")
        must_be = str(cause) if isinstance(cause, _MustBeError) else allowed(info)
        problems.append(Problem(name, value, must_be, sources.get(name, "default")))
    return problems


def _without_secrets(value: str) -> str:
    """A value as it may be shown: of a URL neither user name and password nor query."""
    return re.sub(r"\?.*", "?…", re.sub(r"^(\w+://)?.*@", r"\1…@", value, flags=re.DOTALL), flags=re.DOTALL)


def _nearest(name: str, known: Collection[str]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    # AMI_PREFETCH is far from AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR letter by letter, and yet meant.
    inside = [k for k in known if name.removeprefix(PREFIX) in k]
    return next(iter([*inside, *near]), None)
