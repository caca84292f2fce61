"""What a job cost the worker: one line with FDs, memory and shared memory, and their change since the job before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.guard.use import Use, use_of
from worker.guard.words import size_in_words

_MOST_TYPES = 5


@dataclass(frozen=True, slots=True)
class Step:
    """What is used after a job: in one line of text, and as fields of a structured log."""

    line: str
    fields: Mapping[str, Any]


class Footprint:
    """Remembers what was used after the job before, and since when nothing was higher.

    A worker that has loaded its models shows a large step once, and then no new high for ever more jobs; one
    that leaks shows a new high after each. `pid`: whose use, with all below it; this process as a rule.
    """

    def __init__(self, pid: int | None = None) -> None:
        self._pid = pid
        self._before = use_of(pid or os.getpid())
        self._jobs = 0
        self._highs = {name: _High(value) for name, value in _watched(self._before).items()}

    def after_job(self) -> Step:
        """What worker and loader processes use now, and the change since the last call. About 5 ms."""
        use = use_of(self._pid or os.getpid())
        self._jobs += 1
        watched = _watched(use)
        for name, high in self._highs.items():
            high.see(watched[name])
        step = Step(self._line(use), self._fields(use))
        self._before = use
        return step

    def _line(self, now: Use) -> str:
        before = self._before
        memory, was = now.memory, before.memory
        kinds = ", ".join(
            f"{kind} {_size(value, old)}"
            for kind, value, old in (
                ("anonymous", memory.anonymous, was.anonymous),
                ("file", memory.file, was.file),
                ("shmem", memory.shmem, was.shmem),
            )
        )
        return (
            f"FDs {_number(now.fds, before.fds)}{_types(now.by_type, before.by_type)}, "
            f"of {_known(now.children)} loader and other processes {_number(now.child_fds, before.child_fds)}; "
            f"memory {_size(memory.rss, was.rss)} ({kinds}), of the tree {_size(now.tree, before.tree)}; "
            f"shared memory held {_size(now.held, before.held)}; "
            f"since {'the job before' if self._jobs > 1 else 'the start'}: {self._verdict()}"
        )

    def _verdict(self) -> str:
        rising = [
            f"{name} ({_jobs(high.in_a_row)} in a row)" for name, high in self._highs.items() if high.in_a_row
        ]
        if rising:
            return f"new high of {', '.join(rising)}"
        return f"no new high for {_jobs(min(high.ago for high in self._highs.values()))}"

    def _fields(self, now: Use) -> dict[str, Any]:
        before = self._before
        figures = _figures(now)
        return {
            **figures,
            "fds_by_type": dict(now.by_type),
            "change": {
                name: _difference(value, old)
                for (name, value), old in zip(figures.items(), _figures(before).values(), strict=True)
            },
            "new_highs_in_a_row": {name: high.in_a_row for name, high in self._highs.items()},
        }


class _High:
    """The highest value yet, how many jobs in a row have raised it, and how many jobs ago that was last so."""

    def __init__(self, value: int | None) -> None:
        self._highest = value
        self.in_a_row = self.ago = 0

    def see(self, value: int | None) -> None:
        if value is None:
            return
        if self._highest is None or value > self._highest:
            self._highest, self.in_a_row, self.ago = value, self.in_a_row + 1, 0
        else:
            self.in_a_row, self.ago = 0, self.ago + 1


def _watched(use: Use) -> dict[str, int | None]:
    fds = None if use.fds is None or use.child_fds is None else use.fds + use.child_fds
    return {"FDs": fds, "memory": use.tree, "shared memory": use.held}


def _figures(use: Use) -> dict[str, int | None]:
    return {
        "fds": use.fds,
        "loader_fds": use.child_fds,
        "loaders": use.children,
        "memory_rss": use.memory.rss,
        "memory_anonymous": use.memory.anonymous,
        "memory_file": use.memory.file,
        "memory_shmem": use.memory.shmem,
        "memory_tree": use.tree,
        "shm_held": use.held,
    }


def _types(now: Mapping[str, int], before: Mapping[str, int]) -> str:
    """The types with the most FDs, and each that has changed."""
    if not now:
        return ""
    changed = (
        {kind for kind in {**now, **before} if now.get(kind, 0) != before.get(kind, 0)} if before else set()
    )
    most = sorted(now, key=lambda kind: (-now[kind], kind))[:_MOST_TYPES]
    shown = dict.fromkeys([*most, *sorted(changed)])
    rest = sum(now.values()) - sum(now.get(kind, 0) for kind in shown)
    words = [
        f"{kind} {now.get(kind, 0)}{_change(now.get(kind, 0), before.get(kind, 0), kind in changed)}"
        for kind in shown
    ]
    return f" ({', '.join([*words, *([f'other {rest}'] if rest else [])])})"


def _change(now: int, before: int, is_one: bool) -> str:
    return f" {now - before:+d}" if is_one else ""


def _difference(now: int | None, before: int | None) -> int | None:
    return None if now is None or before is None else now - before


def _number(now: int | None, before: int | None) -> str:
    step = _difference(now, before)
    return _known(now) if step is None else f"{now} {f'{step:+d}' if step else '±0'}"


def _size(now: int | None, before: int | None) -> str:
    if now is None:
        return "unknown"
    step = _difference(now, before)
    if step is None:
        return size_in_words(now)
    sign = "+" if step > 0 else "-"
    return f"{size_in_words(now)} {sign + size_in_words(abs(step)) if step else '±0'}"


def _known(number: int | None) -> str:
    return "unknown" if number is None else str(number)


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"
