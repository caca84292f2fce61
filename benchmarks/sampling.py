"""What the repeated look costs: CPU per process per sample, and of a core for 200 processes a second."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from fds_targets import sleepers
from paired import Row, alone

from amidiag.procfs.identity import identify
from amidiag.procfs.sampler import ProcessSampler

_PROCESSES = 200
_AT_ONCE = 20
_SECONDS = 3


def sampler_rows(rounds: int) -> Iterator[Row]:
    """Per sample, one after the other; then as in real life, once a second, when caches have gone cold."""
    with sleepers(_PROCESSES) as pids, contextlib.ExitStack() as stack:
        samplers = [stack.enter_context(ProcessSampler(identify(pid))) for pid in pids]
        hot = [_cpu_of(samplers, _AT_ONCE) / _AT_ONCE for _ in range(rounds)]
        cold = [_once_a_second(samplers) for _ in range(rounds)]
    yield alone("the sampler: CPU per process per sample", [s / _PROCESSES * 1e6 for s in hot], 15, "µs")
    yield alone("the sampler: 200 processes a second, of a core", [s * 100 for s in cold], 1, "%")


def _cpu_of(samplers: Sequence[ProcessSampler], times: int) -> float:
    before = time.process_time()
    for _ in range(times):
        for sampler in samplers:
            sampler.sample()
    return time.process_time() - before


def _once_a_second(samplers: Sequence[ProcessSampler]) -> float:
    """CPU seconds per second, sleeping in between."""
    spent = 0.0
    for _ in range(_SECONDS):
        time.sleep(1)
        spent += _cpu_of(samplers, 1)
    return spent / _SECONDS
