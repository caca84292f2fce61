"""FD101: sentinel pipes of ended loader processes that an exit callback keeps open.

Seen from outside: pipe ends whose opposite end nobody holds grow by 2 per loader process per loader
built. Cause: pytorch #91252 (FACTS 6). Refuted by: `peers` other than nobody, or growth that follows
batches or time instead of loaders.
"""

from __future__ import annotations

from amidiag.diagnosis.context import Context
from amidiag.model import Finding, Mitigation, Rate, SeriesReport

CODE = "FD101"
URL = "https://github.com/pytorch/pytorch/issues/91252"
_ENDS_PER_PROCESS = 2.0
_BLUR = 0.1
_PERSISTENT = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS"
_PIN = "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY"

MITIGATIONS = (
    Mitigation(
        dialect="ami",
        setting=_PERSISTENT,
        value="false",
        why="no exit callback is registered for loader processes that are not persistent",
        costs="nothing while each job builds its own loader: the loader ends with the job either way",
    ),
    Mitigation(
        dialect="ami",
        setting=_PIN,
        value="false",
        why="the callback is registered only for pinned loaders",
        costs="slower copies to the GPU; no difference without one",
    ),
    Mitigation(
        dialect="pip",
        setting="torch",
        value=">=2.13",
        why="from 2.13 on torch registers one callback for all loaders and holds them weakly",
        costs="an upgrade of torch and of what is built on it",
    ),
)


def find(context: Context) -> Finding | None:
    """FD101, if orphaned pipe ends are proven to grow with the loaders built."""
    orphans = context.leaking("fd.pipe.nobody") or context.leaking("fd.pipe.unknown")
    if orphans is None or orphans.driver != "loaders" or orphans.rate is None:
        return None
    excluded = "false" in (context.setting(_PERSISTENT), context.setting(_PIN))
    if excluded or not _fits(orphans.rate, context.setting("AMI_NUM_WORKERS")):
        return None
    armed = context.simulated.get("torch-atexit-per-loader")
    return Finding(
        code=CODE,
        title="Sentinel pipes of ended loader processes stay open until the worker exits",
        severity="error",
        pid=context.process.pid,
        resource="fd.pipe",
        cause="A DataLoader with persistent_workers and pin_memory registers an exit callback per loader "
        "process (torch ≤ 2.12.1). The callback holds the ended process, and with it two pipe ends whose "
        "opposite ends are gone.",
        evidence=tuple(_evidence(context, orphans, orphans.rate, armed)),
        mitigations=MITIGATIONS,
        url=URL,
    )


def _fits(rate: Rate, processes: str | None) -> bool:
    """Whether the rate is 2 per loader process: of as many as the worker says, else of some whole number."""
    if rate.per != "loaders" or rate.value <= 0:
        return False
    count = int(processes) if processes is not None else max(1, round(rate.value / _ENDS_PER_PROCESS))
    expected = _ENDS_PER_PROCESS * count
    # What is open only while a loader lives blurs the edges of a live recording by an end or two.
    return abs(rate.value - expected) <= _BLUR * expected and rate.low > (1 - 2 * _BLUR) * expected


def _evidence(context: Context, orphans: SeriesReport, rate: Rate, armed: str | None) -> list[str]:
    lines = [
        f"{rate.value:.2f} pipe ends per loader built [{rate.low:.2f}, {rate.high:.2f}], "
        f"over {orphans.cycles} cycles",
        "peers: nobody holds the opposite end of any of them"
        if orphans.resource == "fd.pipe.nobody"
        else "peers: no process that this user can read holds an opposite end (run as root to be certain)",
    ]
    persistent, pinned = context.setting(_PERSISTENT), context.setting(_PIN)
    if persistent is not None and pinned is not None:
        lines.append(f"the worker runs with persistent_workers={persistent} and pin_memory={pinned}")
    if armed is not None:
        lines.append(f"fault torch-atexit-per-loader: {armed}")
    lines.append("refuted if the ends have peers, or if growth follows batches or time instead of loaders")
    return lines
