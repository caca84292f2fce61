"""`ami worker tune` for people: the machine, the sample, the settings, the memory with its arithmetic."""

from __future__ import annotations

import textwrap

from amidiag.model import MemoryForecast, TuneData, TuneMachine, TuneSample
from worker.guard.words import size_in_words


def text(data: TuneData) -> str:
    """The whole report."""
    parts = []
    if data.machine is not None:
        parts.append(_machine(data.machine))
    if data.sample is not None:
        parts += [_sample(data.sample), _recommended(data)]
    if data.now is not None and data.then is not None:
        parts.append(_memory(data.now, data.then, data.machine))
    if data.written_to is not None:
        parts.append(_written(data))
    return "\n\n".join(parts)


def _machine(machine: TuneMachine) -> str:
    limit = (
        "no limit"
        if machine.cgroup_limit is None
        else f"{_size(machine.cgroup_used)} of {_size(machine.cgroup_limit)}"
    )
    return "\n".join(
        [
            "This machine",
            f"  memory      {_size(machine.memory_available)} available of {_size(machine.memory_total)}; "
            f"cgroup: {limit}",
            f"  /dev/shm    {_size(machine.dev_shm_room)} free of {_size(machine.dev_shm_size)}",
            f"  CPUs        {machine.cpus}; accelerator: {machine.accelerator or 'none'}",
            f"  budget      {machine.budget_why}",
        ]
    )


def _sample(sample: TuneSample) -> str:
    return "\n".join(
        [
            f"Sample: {sample.images} images of job {sample.job_id} ({sample.pipeline}), {sample.errors} errors; "
            "all are answered",
            f"  image       {sample.pixels / 1e6:.2f} megapixels (largest {sample.largest_pixels / 1e6:.2f}), "
            f"{size_in_words(sample.file_bytes)} a file",
            f"  per image   download {_ms(sample.download_s)} ({sample.downloads_at_once} at once), "
            f"decode {_ms(sample.decode_s)}, inference {_ms(sample.inference_s)}",
            f"  the worker  {size_in_words(sample.parent_bytes)} with its pipeline, and "
            f"{size_in_words(sample.work_bytes)} for each image that it takes at once",
        ]
    )


def _recommended(data: TuneData) -> str:
    lines = ["Recommended"]
    for one in data.recommended:
        now = "as it is" if one.value == one.current else f"now {one.current or 'empty'}, {one.source}"
        lines.append(f"  {one.setting}={one.value}   ({now})")
        lines += textwrap.wrap(one.why, 96, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _memory(now: MemoryForecast, then: MemoryForecast, machine: TuneMachine | None) -> str:
    lines = ["Memory at its peak, with what is recommended", *(f"  {line}" for line in then.math)]
    parts = [("/dev/shm", then.dev_shm), ("worker", then.parent), ("loader processes", then.loaders)]
    parts += [("helpers", then.helpers), ("page-locked", then.pinned)]
    shown = " + ".join(f"{name} {size_in_words(size)}" for name, size in parts if size)
    lines.append(
        f"  {shown} = {size_in_words(then.total)}   (with the settings now: {size_in_words(now.total)})"
    )
    if machine is not None and machine.budget is not None:
        lines.append(f"  that is {then.total / machine.budget:.0%} of the budget")
        if then.total > machine.budget:
            lines.append("  MORE THAN THE BUDGET: one image at a time needs this much; give it more memory")
    return "\n".join(lines)


def _written(data: TuneData) -> str:
    if not data.written:
        return f"Nothing to change: {data.written_to} is as it was"
    values = {one.setting: one for one in data.recommended}
    lines = [f"Written to {data.written_to}"]
    for name in data.written:
        one = values[name]
        beats = "; the environment has it too, and wins" if one.source == "environment" else ""
        lines.append(f"  {name}={one.value} (was {one.current or 'empty'}, {one.source}{beats})")
    return "\n".join(lines)


def _size(size: int | None) -> str:
    return "unknown" if size is None else size_in_words(size)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 10 else f"{seconds:.1f} s"
