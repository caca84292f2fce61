"""The share of its FD limit at which the worker or one of its loader processes counts as used up."""

from __future__ import annotations

import os
import resource

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.fds import count
from amidiag.procfs.identity import still
from worker.guard.family import Family


class FdCap:
    """`percent` of each process's own soft limit; 0 for none."""

    def __init__(self, percent: float, family: Family) -> None:
        self._percent = percent
        self._family = family

    @property
    def why(self) -> str:
        """The cap in words; empty where there is none."""
        return f"{self._percent:g} % of an FD limit ({own_limit() or 'none'})" if self._percent else ""

    def passed(self) -> str | None:
        """`103 of 128 FDs (80 %)`, with the process where it is not this one; None where none is there.

        2 µs for each process, 1 ms where they are listed anew. Before Linux 6.2, where FDs have to be listed,
        15 ms for each 18,000.
        """
        if not self._percent:
            return None
        own = self._beyond(os.getpid(), own_limit())
        if own is not None:
            return own
        for member in self._family.members():
            found = self._beyond(member.identity.pid, member.soft_limit)
            if found is not None and still(member.identity):
                return f"{found} of process {member.identity.pid} ({member.name})"
        return None

    def _beyond(self, pid: int, limit: int | None) -> str | None:
        if limit is None:
            return None
        try:
            fds = count(pid)
        except CannotObserve:
            return None
        if 100 * fds < self._percent * limit:
            return None
        return f"{fds} of {limit} FDs ({100 * fds / limit:.0f} %, at most {self._percent:g} %)"


def own_limit() -> int | None:
    """At how many FDs this process meets EMFILE; None for no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if soft == resource.RLIM_INFINITY else soft
