"""`ami worker tune`: a sample of real tasks and what this machine has, to settings and the memory they take."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from amidiag.model import Surroundings, TuneData, TunedSetting, TuneMachine
from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.surroundings import surroundings
from worker import env_file, exit_codes
from worker.antenna.schemas import AntennaError
from worker.cpu import set_torch_threads
from worker.guard.advice import Adviser
from worker.guard.budget import Budget
from worker.pipelines.device import DeviceError
from worker.pipelines.model_file import ModelError
from worker.registration import call_failed
from worker.sampling import NoSampleError, Sampler
from worker.settings import Loaded, Problem, SettingsError, WorkerSettings
from worker.settings_report import as_text

FAILURES = (AntennaError, ModelError, DeviceError)
"""What `tune` raises beside bad settings; `failed` has words for each."""


def tune(loaded: Loaded, *, job: int | None, pipeline: str | None, tasks: int) -> tuple[TuneData, str | None]:
    """What is recommended, and why there is no recommendation where there is none.

    Raises:
        AntennaError: the server refused this worker or gave no usable answer.
        SettingsError: this worker does not have the pipeline, or its models cannot be used.
        ModelError, DeviceError: the pipeline cannot be loaded, or the device does not work.
    """
    settings = loaded.settings
    set_torch_threads(0)
    # Before the sample takes any of it.
    machine = look_at_machine(settings)
    try:
        with Sampler(settings, tasks) as sampler:
            sample = sampler.take(job, pipeline)
    except NoSampleError as e:
        return TuneData(machine=machine), str(e)
    advice = Adviser(settings, sample, machine, as_text).advise(loaded.sources)
    data = TuneData(
        machine=machine, sample=sample, recommended=advice.recommended, now=advice.now, then=advice.then
    )
    return data, None


def look_at_machine(settings: WorkerSettings) -> TuneMachine:
    """What bounds the worker here."""
    around = _around()
    cgroup = around.cgroup if around is not None else None
    shm = around.dev_shm if around is not None else None
    # As `ami worker run` starts them: one for each GPU, or as many as are set.
    budget = Budget.of(settings, instances=settings.instances or max(1, torch.cuda.device_count()))
    return TuneMachine(
        memory_total=around.memory_total if around is not None else None,
        memory_available=around.memory_available if around is not None else None,
        cgroup_limit=cgroup.limit if cgroup is not None else None,
        cgroup_used=cgroup.used if cgroup is not None else None,
        dev_shm_size=shm.size if shm is not None else None,
        dev_shm_room=budget.shm_bytes,
        cpus=len(os.sched_getaffinity(0)),
        accelerator=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        budget=budget.bytes,
        budget_why=budget.why,
    )


def _around() -> Surroundings | None:
    try:
        return surroundings(os.getpid())
    except CannotObserve:
        return None


def changes(recommended: Sequence[TunedSetting]) -> list[TunedSetting]:
    """What is recommended otherwise than it is."""
    return [one for one in recommended if one.value != one.current]


def write(data: TuneData, path: Path) -> TuneData:
    """Put what is recommended otherwise than it is into an `.env` file.

    Raises:
        SettingsError: the file cannot be written.
    """
    changed = {one.setting: one.value for one in changes(data.recommended)}
    try:
        if changed:
            env_file.write(path, changed)
    except (OSError, UnicodeDecodeError) as e:
        reason = (e.strerror or str(e)) if isinstance(e, OSError) else "it is not UTF-8"
        raise SettingsError([Problem("--write", str(path), "a file that can be written", reason)]) from None
    return dataclasses.replace(data, written_to=str(path), written=tuple(changed))


def failed(error: Exception, settings: WorkerSettings) -> tuple[int, str]:
    """Exit code and line for one of `FAILURES`. What was reserved and not answered is left to redelivery."""
    if isinstance(error, AntennaError):
        return call_failed(error, settings)
    if isinstance(error, ModelError):
        return exit_codes.BAD_SETTINGS, f"bad model file: {error}"
    return exit_codes.INTERNAL, str(error)
