"""What a worker with its loader processes really uses, cheap enough for every few batches."""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.procfs.errors import CannotObserve
from worker.guard.use import whole_use


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of a process with its descendants, in bytes.

    `anonymous`: the private memory of all of them. What a forked process still shares with its parent by
    copy-on-write counts in both: only smaps could tell, and it stops the target. `shared`: each segment once,
    by (device, inode), with those that are held by an FD and mapped by nobody. Files that are mapped, such as
    libraries, are page cache and not in it.
    """

    anonymous: int
    shared: int

    @property
    def total(self) -> int:
        """All that is used."""
        return self.anonymous + self.shared


def tree_usage(pid: int) -> Usage:
    """What process `pid` and its descendants use now.

    5 ms for a worker with two loader processes under forkserver, of which 1 ms goes over the 130 processes of
    the machine, and the rest, about 1 ms for each process with torch, over its maps and FDs. Never smaps.

    Raises:
        CannotObserve: `pid` has ended, or this is no Linux.
    """
    use = whole_use(pid)
    return Usage(use.private or 0, use.held or 0)


def own_usage(pid: int) -> Usage | None:
    """As `tree_usage`; None where it cannot be told."""
    try:
        return tree_usage(pid)
    except CannotObserve:
        return None
