"""From a sample of real tasks and this machine to settings, each with its reason."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from amidiag.model import MemoryForecast, TunedSetting, TuneMachine, TuneSample
from worker.guard.budget import Budget
from worker.guard.memory_model import CHANNELS, Case, predict
from worker.guard.plan import Learnt, Limits, Plan
from worker.guard.words import size_in_words
from worker.settings import WorkerSettings, env_name

MOST_THREADS: Final = 32
FEW_IMAGES: Final = 8
STAGING_DIR: Final = "/var/tmp/ami-staging"
DEFAULT_BUDGET: Final = "70%"
_BATCH = "antenna_api_batch_size"
_PREFETCH = "antenna_api_dataloader_prefetch_factor"
_THREADS = "antenna_api_dataloader_download_threads"
_PINNING = "antenna_api_dataloader_pin_memory"


@dataclass(frozen=True, slots=True)
class Choice:
    """A value for a setting, as it is written in an `.env` file, and why."""

    field: str
    value: Any
    why: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What is recommended, and the memory it takes, now and then."""

    recommended: tuple[TunedSetting, ...]
    now: MemoryForecast
    then: MemoryForecast


class Adviser:
    """Chooses settings for what was sampled on this machine. `shown` writes a value as in an `.env` file."""

    def __init__(
        self, settings: WorkerSettings, sample: TuneSample, machine: TuneMachine, shown: Callable[[Any], str]
    ) -> None:
        self._settings = settings
        self._sample = sample
        self._machine = machine
        self._shown = shown
        self._budget = Budget(machine.budget, machine.budget_why, machine.dev_shm_room)

    def advise(self, sources: Mapping[str, str]) -> Advice:
        """Every setting that matters for the ingest, changed or not."""
        choices = self._choices()
        recommended = tuple(
            TunedSetting(
                setting=env_name(choice.field),
                value=self._shown(choice.value),
                current=self._shown(getattr(self._settings, choice.field)),
                source=sources.get(env_name(choice.field), "default"),
                why=choice.why,
            )
            for choice in choices
        )
        values = {choice.field: choice.value for choice in choices}
        return Advice(
            recommended, self._forecast(self._settings), self._forecast(_with(self._settings, values))
        )

    def _choices(self) -> list[Choice]:
        budget = self._budget_choice()
        loaders, threads = self._loaders()
        prefetch = self._prefetch(loaders.value)
        plan = self._plan(loaders.value, prefetch.value)
        while plan.batch < FEW_IMAGES and loaders.value > 1:
            why = f"{loaders.why}; fewer, since memory is short"
            loaders = Choice(loaders.field, loaders.value - 1, why)
            plan = self._plan(loaders.value, prefetch.value)
        ahead = max(1, min(prefetch.value, plan.depth // loaders.value))
        is_short = ahead < prefetch.value or plan.batch < WorkerSettings.model_fields[_BATCH].default
        if ahead < prefetch.value:
            prefetch = Choice(_PREFETCH, ahead, f"more than {ahead} ahead do not fit into memory")
        return [
            self._batch(plan),
            prefetch,
            loaders,
            threads,
            self._pinning(plan),
            self._staging(is_short=is_short),
            budget,
        ]

    def _loaders(self) -> tuple[Choice, Choice]:
        """Loader processes for the decoding, then threads for the downloads in what time is left."""
        sample, now = self._sample, self._settings.antenna_api_dataloader_download_threads
        most = max(1, self._machine.cpus - 1 if self._machine.accelerator else self._machine.cpus // 2)
        inference = max(sample.inference_s, 1e-6)
        count = min(most, max(1, math.ceil(sample.decode_s / inference)))
        why = (
            f"{_ms(sample.decode_s)} of decoding for {_ms(sample.inference_s)} of inference per image, "
            f"at most {most} on {self._machine.cpus} CPUs"
        )
        spare, one = inference * count - sample.decode_s, sample.download_s * sample.downloads_at_once
        needed = math.ceil(one / spare) if spare > 0 else MOST_THREADS
        threads = max(now, min(MOST_THREADS, needed))
        reason = f"{_ms(one)} for one download, {_ms(max(spare, 0.0))} per image beside the decoding"
        return Choice("num_workers", count, why), Choice(_THREADS, threads, reason)

    def _prefetch(self, loaders: int) -> Choice:
        load, work = self._load_s() / loaders, self._sample.inference_s
        said = f"an image is loaded in {_ms(load)} and worked on in {_ms(work)}"
        if load < work / 2:
            return Choice(_PREFETCH, 2, f"{said}: 2 are enough for a loader that is well ahead")
        return Choice(_PREFETCH, 4, f"{said}: 4 even out what comes late")

    def _download_s(self) -> float:
        """Per image, with as many downloads at once as there are threads."""
        threads = self._settings.antenna_api_dataloader_download_threads
        return self._sample.download_s * self._sample.downloads_at_once / threads

    def _load_s(self) -> float:
        return self._download_s() + self._sample.decode_s

    def _plan(self, loaders: int, prefetch: int) -> Plan:
        """What the worker's own tuner makes of it."""
        sample = self._sample
        settings = _with(
            self._settings, {"num_workers": loaders, _PREFETCH: prefetch, "autotune": True}, _BATCH
        )
        limits = Limits(settings, self._budget, pinned=self._is_pinned(settings), own=sample.parent_bytes)
        sizes = deque([sample.pixels * CHANNELS, sample.largest_pixels * CHANNELS, sample.pixels * CHANNELS])
        return limits.plan(Learnt(sizes, True, sample.file_bytes, sample.inference_s))

    def _batch(self, plan: Plan) -> Choice:
        image = size_in_words(self._sample.pixels * CHANNELS)
        if plan.batch_bytes is None:
            return Choice(_BATCH, plan.batch, f"images of {image}, and nothing bounds memory")
        limit = size_in_words(plan.batch_bytes)
        slow = self._sample.inference_s * 2 * (plan.batch + 1) > 0.8 * self._settings.visibility_timeout_s > 0
        bound = (
            "two batches can be worked on in the visibility time" if slow else f"{limit} are left for each"
        )
        return Choice(_BATCH, plan.batch, f"images of {image}: {bound}")

    def _pinning(self, plan: Plan) -> Choice:
        now = self._settings.antenna_api_dataloader_pin_memory
        if self._machine.accelerator is None:
            return Choice(_PINNING, None if now else now, "no accelerator: auto pins nothing here")
        if plan.batch < FEW_IMAGES and self._is_pinned(self._settings):
            return Choice(_PINNING, False, "page-locked copies would leave room for few images only")
        return Choice(_PINNING, None if now is False else now, "a faster way to the accelerator, and it fits")

    def _staging(self, *, is_short: bool) -> Choice:
        now = self._settings.staging_dir
        if now:
            return Choice("staging_dir", now, "as set: what is loaded ahead lies on disk")
        if is_short and self._download_s() > self._sample.inference_s / 2:
            why = "memory is too short to load ahead, and downloads take long: let them wait on disk"
            return Choice("staging_dir", STAGING_DIR, why)
        return Choice("staging_dir", "", "not needed: what is loaded ahead fits into memory")

    def _budget_choice(self) -> Choice:
        if self._budget.bytes is None and self._settings.memory_budget != DEFAULT_BUDGET:
            return Choice("memory_budget", DEFAULT_BUDGET, "without a budget nothing holds batches back")
        return Choice("memory_budget", self._settings.memory_budget, self._machine.budget_why)

    def _is_pinned(self, settings: WorkerSettings) -> bool:
        pinned = settings.antenna_api_dataloader_pin_memory
        return self._machine.accelerator is not None if pinned is None else pinned

    def _forecast(self, settings: WorkerSettings) -> MemoryForecast:
        """The peak with these settings, held back by the tuner as it would be."""
        sample, pinned = self._sample, self._is_pinned(settings)
        limits = Limits(settings, self._budget, pinned=pinned, own=sample.parent_bytes)
        learnt = Learnt(deque([sample.pixels * CHANNELS]), True, sample.file_bytes, sample.inference_s)
        plan = limits.plan(learnt)
        case = Case(
            pixels=sample.pixels,
            file_bytes=sample.file_bytes,
            batch=plan.batch,
            prefetch=settings.antenna_api_dataloader_prefetch_factor,
            loaders=settings.num_workers,
            pinned=pinned,
            cache_bytes=settings.image_cache_max_bytes,
            at_once=settings.localization_batch_size,
            start_method=settings.antenna_api_dataloader_mp_context,
            depth=plan.depth,
            batch_bytes=plan.batch_bytes,
            work_bytes=sample.work_bytes,
            parent_bytes=sample.parent_bytes,
        )
        found = predict(case)
        return MemoryForecast(
            found.dev_shm,
            found.parent,
            found.loaders,
            found.helpers,
            found.pinned,
            found.total,
            found.math,
        )


def _with(settings: WorkerSettings, values: Mapping[str, Any], *unset: str) -> WorkerSettings:
    """The settings with other values; what is in `unset` is as if nobody had set it."""
    known = {f: getattr(settings, f) for f in settings.model_fields_set if f not in unset}
    return WorkerSettings.model_validate(known | dict(values))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.0f} s"
