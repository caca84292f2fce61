"""The memory budget: how much the worker with its loader processes may use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from amidiag.model import Surroundings
from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.surroundings import surroundings
from worker.guard.page_cache import reclaimable
from worker.guard.usage import Usage, own_usage, tree_usage
from worker.guard.words import size_in_words
from worker.settings import WorkerSettings

__all__ = ["Budget", "Left", "Usage", "memory_left", "tree_usage"]


@dataclass(frozen=True, slots=True)
class Budget:
    """What the worker may use, in bytes.

    `bytes`: all its memory, None for no budget. `shm_bytes`: what `/dev/shm` has room for, which batches of
    loader processes lie in; None where there is no limit or it is not known. `why`: one line for the log.
    """

    bytes: int | None
    why: str
    shm_bytes: int | None = None

    @classmethod
    def of(cls, settings: WorkerSettings, *, instances: int = 1) -> Budget:
        """The budget that the settings come to here and now.

        A share is of what cgroup and host leave, this process included, and is divided by the number of
        `instances` that run side by side, as is `/dev/shm`; a size holds for each of them.
        """
        around = _around()
        room = _shm_room(around)
        shm_bytes = None if room is None else room // instances
        amount, why = _amount(settings, _left(around), instances)
        shm = "no limit known" if shm_bytes is None else f"room for {size_in_words(shm_bytes)}"
        return cls(amount, f"{why}; /dev/shm: {shm}", shm_bytes)


@dataclass(frozen=True, slots=True)
class Left:
    """What can still be used, in bytes, and by whose word: the host's or the cgroup's."""

    bytes: int
    by: str

    def __str__(self) -> str:
        return f"{size_in_words(self.bytes)} that the {self.by} leaves"


def memory_left() -> Left | None:
    """What host and cgroup leave to this process, with what it and its descendants have already; None if unknown."""
    return _left(_around())


def _amount(settings: WorkerSettings, left: Left | None, instances: int) -> tuple[int | None, str]:
    share, size = settings.memory_share, settings.memory_bytes
    if not share and not size:
        return None, f"no memory budget (AMI_MEMORY_BUDGET={settings.memory_budget})"
    if size:
        beyond = f", more than the {left}" if left is not None and size > left.bytes else ""
        return size, f"memory budget {size_in_words(size)} as set{beyond}"
    assert share is not None
    if left is None:
        return None, "no memory budget: what cgroup and host leave cannot be read"
    amount = int(share * left.bytes / instances)
    among = f", for each of {instances} instances" if instances > 1 else ""
    return amount, f"memory budget {size_in_words(amount)}: {share:.0%} of the {left}{among}"


def _around() -> Surroundings | None:
    try:
        return surroundings(os.getpid())
    except CannotObserve:
        return None


def _left(around: Surroundings | None) -> Left | None:
    """The smaller of what host and cgroup leave to this process, with what it has already."""
    if around is None:
        return None
    usage = own_usage(os.getpid())
    own = usage.total if usage is not None else 0
    lefts = []
    if around.memory_available is not None:
        lefts.append(Left(around.memory_available + own, "host"))
    cgroup = around.cgroup
    if cgroup is not None and cgroup.limit is not None:
        used = max(0, (cgroup.used or 0) - reclaimable(cgroup) - own)
        lefts.append(Left(max(0, cgroup.limit - used), "cgroup"))
    return min(lefts, key=lambda left: left.bytes, default=None)


def _shm_room(around: Surroundings | None) -> int | None:
    shm = around.dev_shm if around is not None else None
    return None if shm is None or shm.size is None else max(0, shm.size - (shm.used or 0))
