"""Who a process is: (boot, PID, start), and the times that people see."""

from __future__ import annotations

import os
import time
from functools import cache

from amidiag.model import Identity
from amidiag.procfs.errors import ProcessGone, explain, gone
from amidiag.procfs.processes import ProcStat, read_stat


@cache
def boot_id() -> str:
    """The id of this boot of the kernel (random(4)). Raises NotLinux, ReaderExhausted."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            return file.read().decode().strip()
    except OSError as error:
        raise explain(error, None, None, "the boot id") from error


def identify(pid: int) -> Identity:
    """The identity of the running process `pid`. Raises ProcessGone where there is none, or only a zombie."""
    stat = read_stat(pid)
    if stat.ended:
        raise gone(pid, stat.name, was_seen=True)
    return identity_of(stat)


def identity_of(stat: ProcStat) -> Identity:
    """The identity of a process of which the state has been read."""
    return Identity(boot_id(), stat.pid, stat.start_ticks)


def still(identity: Identity) -> bool:
    """Whether that very process still runs. A zombie does not, nor does another process of the same PID."""
    try:
        stat = read_stat(identity.pid)
    except ProcessGone:
        return False
    return not stat.ended and identity_of(stat) == identity


def started_at(start_ticks: int) -> str:
    """When a process started, from its clock ticks since boot: ISO 8601 in UTC, in whole seconds.

    Start ticks count CLOCK_BOOTTIME, also in a time namespace (time_namespaces(7)).
    """
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    start = boot + start_ticks / os.sysconf("SC_CLK_TCK")
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(start))
