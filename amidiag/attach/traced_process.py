"""One process of a traced tree, as it was found in `/proc`, and which regions of the tables are its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from amidiag.attach.old_tables import iso
from amidiag.attach.trace_region import Region
from amidiag.attach.trace_table import Table
from amidiag.model import TracedProcess
from amidiag.procfs.open_files import OpenFile
from amidiag.procfs.processes import ProcStat
from amidiag.procfs.ticks import NS_PER_TICK


@dataclass(eq=False)
class Member:
    """A process of the tree, or one above its root.

    Attributes:
        numbers: its PIDs in the PID namespaces from ours to its own.
        files, threads: what it has; empty where it was not asked or may not be.
        tables: those that it has mapped or left behind.
        own: its regions, newest first: several where it has become another program by exec.
    """

    stat: ProcStat
    numbers: tuple[int, ...]
    files: list[OpenFile] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    tables: tuple[Table, ...] = ()
    own: list[Region] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """Its PID, as we see it."""
        return self.stat.pid

    @property
    def started_ns(self) -> int:
        """When it was started, on CLOCK_BOOTTIME, rounded down to a clock tick."""
        return self.stat.start_ticks * NS_PER_TICK

    def owns(self, region: Region) -> bool:
        """Whether it is the process that took this region: not another that had its PID before."""
        return region.pid == self.numbers[-1] and self.started_ns <= region.claimed

    def take_own(self, tables: Iterable[Table]) -> None:
        """Find its regions among all that are known."""
        found = {id(region): region for table in tables for region in table.regions if self.owns(region)}
        self.own = sorted(found.values(), key=lambda region: -region.claimed)

    def books(self) -> TracedProcess | None:
        """What the tracer says of itself there; None where there is none."""
        if not self.own:
            return None
        forks = sum(
            t.untraced_forks for t in self.tables if any(r in t.regions and r.number == 0 for r in self.own)
        )
        return books(self.pid, self.own, forks)


def books(pid: int, own: list[Region], untraced_forks: int) -> TracedProcess:
    """The counters of a process's regions, newest first, together."""
    newest, failed = own[0], max(own, key=lambda region: region.emfile_at)
    return TracedProcess(
        pid=pid,
        since=when(own[-1], own[-1].claimed),
        off_since=when(newest, newest.off_at) if newest.off_at else None,
        no_slot=sum(region.no_slot for region in own),
        no_site=sum(region.no_site for region in own),
        torn=sum(region.torn for region in own),
        errors=sum(region.errors for region in own),
        emfile=sum(region.emfile for region in own),
        emfile_at=when(failed, failed.emfile_at) if failed.emfile_at else None,
        untraced_forks=untraced_forks,
    )


def when(region: Region, boottime_ns: int) -> str:
    """A moment of a region's clock, ISO 8601 in UTC."""
    return iso((boottime_ns + region.realtime) / 1e9)
