"""A process with all its descendants."""

from __future__ import annotations

from collections.abc import Mapping

from amidiag.model import Identity
from amidiag.procfs.errors import gone
from amidiag.procfs.identity import identity_of
from amidiag.procfs.processes import ProcStat, snapshot


def read_tree(root: Identity) -> list[ProcStat]:
    """The root first, then its descendants, parents before children, zombies too. Raises ProcessGone.

    From one pass over all processes: `/proc/PID/task/TID/children` is only reliable while the tree is
    frozen (proc_pid_task(5)).
    """
    stats = snapshot()
    head = stats.get(root.pid)
    if head is None or head.ended or identity_of(head) != root:
        raise gone(root.pid, head.name if head else None, was_seen=True)
    return descendants(head, stats)


def descendants(root: ProcStat, stats: Mapping[int, ProcStat]) -> list[ProcStat]:
    """`root` and its descendants among `stats`, breadth first."""
    children: dict[int, list[ProcStat]] = {}
    for stat in stats.values():
        children.setdefault(stat.parent_pid, []).append(stat)
    tree = [root]
    for parent in tree:  # Grows while it is walked: that is the breadth-first queue.
        # A "child" older than its parent belonged to an earlier owner of the PID.
        tree += [child for child in children.get(parent.pid, ()) if child.start_ticks >= parent.start_ticks]
    return tree
