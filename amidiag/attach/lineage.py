"""From whom a process has what it has: itself, and by inheritance those that forked or started it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from amidiag.attach.trace_region import Region
from amidiag.attach.trace_table import Table
from amidiag.attach.traced_process import Member
from amidiag.procfs.ticks import NS_PER_TICK

_FOREVER = sys.maxsize
# Generations: more than any sane tree has, so that forged parents cannot lead in circles.
_DEEPEST = 256


@dataclass(frozen=True, slots=True)
class Source:
    """A region that something may have come from, if it was made there before `until` (boot time, ns).

    `same_memory`: whether mappings came along: by fork they do, by exec they do not.
    """

    region: Region
    until: int
    same_memory: bool


class Lineage:
    """The family of all processes that were read."""

    def __init__(self, members: Iterable[Member]) -> None:
        self._members = {member.pid: member for member in members}
        self._owner = {id(region): member for member in self._members.values() for region in member.own}
        self._by_key = {(region.pid, region.claimed): region for region in self.regions()}

    def regions(self) -> list[Region]:
        """Every region of every table."""
        tables: dict[int, Table] = {id(t): t for member in self._members.values() for t in member.tables}
        return [region for table in tables.values() for region in table.regions]

    def owner(self, region: Region) -> Member | None:
        """The process that has it, if it was read."""
        return self._owner.get(id(region))

    def parent_region(self, region: Region) -> Region | None:
        """That of the process that forked its owner."""
        return self._by_key.get(region.parent) if region.parent else None

    def sources(self, member: Member) -> Iterator[Source]:
        """The member's own regions first, then its parent's, and so on."""
        person: Member | None = member
        regions = member.own
        until, same_memory = _FOREVER, True
        for _ in range(_DEEPEST):
            for older, region in enumerate(regions):
                if older:
                    # Between two regions of one process lies an exec.
                    until, same_memory = min(until, regions[older - 1].claimed), False
                yield Source(region, until, same_memory)
            above = self.parent_region(regions[-1]) if regions else None
            if above is not None:
                until = min(until, regions[-1].claimed)
                person = self.owner(above)
                regions = [r for r in person.own if r.claimed <= above.claimed] if person else [above]
                continue
            parent = self._parent(person)
            if parent is None or person is None:
                return
            # The start of a process is known rounded down to a tick.
            until, same_memory = min(until, person.started_ns + NS_PER_TICK), False
            person, regions = parent, parent.own

    def _parent(self, member: Member | None) -> Member | None:
        parent = self._members.get(member.stat.parent_pid) if member else None
        # An older "child" belonged to an earlier owner of the PID.
        return parent if parent and member and parent.started_ns <= member.started_ns else None
