"""FD101: sentinel pipes of ended loader processes that an exit callback keeps open.

Seen from outside: pipe ends whose opposite end nobody holds grow by 2 per loader process per loader
built. Cause: pytorch #91252 (FACTS 6). Refuted by: `peers` other than nobody, or growth that follows
batches or time instead of loaders.
"""

from __future__ import annotations

from amidiag.diagnosis.context import Context
from amidiag.model import Finding, Mitigation, Rate

CODE = "FD101"
URL = "https://github.com/pytorch/pytorch/issues/91252"
_ENDS_PER_PROCESS = 2.0
_BLUR = 0.1
_MOSTLY = 0.8
_PERSISTENT = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS"
_LIFETIME = "AMI_ANTENNA_API_DATALOADER_LIFETIME"
_AVOID = "AMI_AVOID_TORCH_ATEXIT_LEAK"
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
        setting=_AVOID,
        value="true",
        why="the worker takes the exit callbacks back, and ends its loader processes itself",
        costs="nothing",
    ),
    Mitigation(
        dialect="ami",
        setting=_LIFETIME,
        value="worker",
        why="one loader serves all jobs, and none is built for a job without tasks",
        costs="its loader processes stay between jobs, each with the memory of torch",
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
    peers = _orphaned(context)
    excluded = "false" in (context.setting(_PERSISTENT), context.setting(_PIN))
    rate = _per_loader(context)
    if peers is None or rate is None or excluded:
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
        evidence=tuple(_evidence(context, peers, rate, armed)),
        mitigations=MITIGATIONS,
        url=URL,
    )


def _orphaned(context: Context) -> str | None:
    """What is seen of the pipes' other ends, in words; None where somebody holds them."""
    orphans = context.leaking("fd.pipe.nobody")
    if orphans is not None:
        return f"peers: nobody holds the opposite end of any of them, over {orphans.cycles} cycles"
    if context.leaking("fd.pipe.unknown"):
        return "peers: no process that this user can read holds an opposite end (run as root to be certain)"
    peers = (context.process.fds.peers or {}).get("pipe")
    ends = (context.process.fds.by_type or {}).get("pipe", 0)
    if peers is not None and ends and peers.nobody >= _MOSTLY * ends:
        return f"peers: nobody holds the opposite end of {peers.nobody} of its {ends} pipe ends now"
    return None


def _per_loader(context: Context) -> Rate | None:
    """How the orphans, or else all pipes, grow per loader, if that fits.

    Live, peers and counters are read a moment apart, and the pipes may tell their driver where the orphans do not.
    """
    for resource in ("fd.pipe.nobody", "fd.pipe.unknown", "fd.pipe"):
        series = context.leaking(resource)
        if series is not None and series.rate is not None and series.driver == "loaders":
            return series.rate if _fits(series.rate, context.setting("AMI_NUM_WORKERS")) else None
    return None


def _fits(rate: Rate, processes: str | None) -> bool:
    """Whether the rate is 2 per loader process: of as many as the worker says, else of some whole number."""
    if rate.per != "loaders" or rate.value <= 0:
        return False
    count = int(processes) if processes is not None else max(1, round(rate.value / _ENDS_PER_PROCESS))
    expected = _ENDS_PER_PROCESS * count
    # What is open only while a loader lives blurs a live recording by an end or two; half as many must be excluded.
    return abs(rate.value - expected) <= _BLUR * expected and rate.low > expected / 2


def _evidence(context: Context, peers: str, rate: Rate, armed: str | None) -> list[str]:
    lines = [f"{rate.value:.2f} pipe ends per loader built [{rate.low:.2f}, {rate.high:.2f}]", peers]
    persistent, pinned = context.setting(_PERSISTENT), context.setting(_PIN)
    if persistent is not None and pinned is not None:
        lines.append(f"the worker runs with persistent_workers={persistent} and pin_memory={pinned}")
    if armed is not None:
        lines.append(f"fault torch-atexit-per-loader: {armed}")
    lines.append("refuted if the ends have peers, or if growth follows batches or time instead of loaders")
    return lines
