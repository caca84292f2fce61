"""What `amidiag fds` looks at: several processes with their trees at one instant, all FDs in groups."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from amidiag.model import Identity, Observation, ProcessDetail, ProcessObservation, TreeUse
from amidiag.procfs.errors import ProcessGone, gone
from amidiag.procfs.observe import StatusReader, observe_tree
from amidiag.procfs.processes import read_stat

# The rest is imported where it is needed: counting by type takes none of it.
if TYPE_CHECKING:
    from amidiag.model import Surroundings, ThreadGroup
    from amidiag.procfs.far_ends import Chosen, FarEnds
    from amidiag.procfs.fd_listing import FdListing
    from amidiag.procfs.fds import FdScan

Marks = Mapping[Identity, frozenset[str]]
"""By process, each FD that was open at some moment, as `FdListing.marks` names it."""


class FdLook(NamedTuple):
    """What was seen. `tree` is None where there are several; `listings` has every process of the trees."""

    processes: tuple[ProcessObservation, ...]
    details: tuple[ProcessDetail, ...]
    tree: TreeUse | None
    listings: Mapping[Identity, FdListing]
    notes: tuple[str, ...]

    def names(self) -> dict[str, str]:
        """What those are called who hold other ends, by PID, as far as they still run."""
        pids = {
            pid for detail in self.details for group in detail.groups or () for pid in group.peer_processes
        }
        names = {}
        for pid in pids:
            try:
                names[pid] = read_stat(int(pid)).name
            except ProcessGone:
                continue
        return names


def look(
    targets: Sequence[Identity],
    *,
    tree: bool = False,
    peers: bool = True,
    status_reader: StatusReader | None = None,
    before: Marks | None = None,
) -> FdLook:
    """Look at the processes `targets`, with `tree` at all their descendants too.

    The other ends of all of them are looked for in one pass over the machine. Without `peers` FDs are only
    counted by type, and nothing else is read. With `before` the groups have only the FDs that are not in it.

    Of several targets one that ends meanwhile is left out, with a note. Raises ProcessGone where none is
    left, and what `observe_tree` raises.
    """
    chosen = set(targets)
    keeper = _Keeper()
    observations, notes = _observe(_roots(targets), keeper, peers=peers, status_reader=status_reader)
    shown = [
        process
        for observation in observations
        for process in observation.processes
        if tree or _identity(observation, process) in chosen
    ]
    notes += [note for observation in observations for note in observation.notes]
    ends: FarEnds | None = None
    if peers:
        ends = _far_ends(observations, keeper, before)
        notes += _gaps(ends)
    seen = [(process, detail) for process in shown if (detail := _detail(process, ends, notes))]
    if not seen:
        raise gone(shown[0].pid, shown[0].name, was_seen=True)
    return FdLook(
        processes=tuple(_with_peers(process, ends) for process, _ in seen),
        details=tuple(detail for _, detail in seen),
        tree=observations[0].tree if len(observations) == 1 else None,
        listings={
            _identity(observation, process): keeper.listings[process.pid]
            for observation in observations
            for process in observation.processes
            if process.pid in keeper.listings
        },
        notes=tuple(dict.fromkeys(notes)),
    )


class _Keeper:
    """Reads FDs for `observe_tree`, and keeps what it read."""

    def __init__(self) -> None:
        self.listings: dict[int, FdListing] = {}

    def scan(self, pid: int, name: str | None) -> FdScan:
        from amidiag.procfs.fd_listing import list_all

        self.listings[pid] = found = list_all(pid, name)
        return found


def _roots(targets: Sequence[Identity]) -> list[Identity]:
    if len(targets) == 1:
        return list(targets)
    from amidiag.procfs.select import outermost

    return outermost(dict.fromkeys(targets))


def _observe(
    roots: Sequence[Identity], keeper: _Keeper, *, peers: bool, status_reader: StatusReader | None
) -> tuple[list[Observation], list[str]]:
    observations: list[Observation] = []
    ended: list[ProcessGone] = []
    for root in roots:
        try:
            observations.append(
                observe_tree(
                    root,
                    peers=False,
                    shm=peers,
                    status_reader=status_reader,
                    scanner=keeper.scan if peers else None,
                )
            )
        except ProcessGone as error:
            ended.append(error)
    if not observations:
        raise ended[0]
    return observations, [f"left out: {error}" for error in ended]


def _far_ends(observations: Iterable[Observation], keeper: _Keeper, before: Marks | None) -> FarEnds:
    from amidiag.procfs.far_ends import find_far_ends

    trees: list[list[FdListing]] = []
    chosen: dict[int, Chosen] = {}
    for observation in observations:
        # A process whose FDs this user may not read has none.
        known = [p for p in observation.processes if p.pid in keeper.listings]
        trees.append([keeper.listings[process.pid] for process in known])
        for process in known if before is not None else ():
            listing = keeper.listings[process.pid]
            old = (before or {}).get(_identity(observation, process), frozenset())
            new = {fd for fd, mark in listing.marks() if mark not in old}
            chosen[process.pid] = new.__contains__
    return find_far_ends(trees, chosen)


def _detail(process: ProcessObservation, ends: FarEnds | None, notes: list[str]) -> ProcessDetail | None:
    """None, with a note, where the process has ended: what was read by its PID meanwhile may be another's."""
    pid = process.pid
    try:
        read = (None, None) if ends is None else _around(pid, process.name)
        # Last, so that it vouches for all that was read by PID before.
        stat = read_stat(pid)
    except ProcessGone:
        stat = None
    if stat is None or stat.ended or stat.start_ticks != process.start_ticks:
        notes.append(f"ended while its FDs were read, left out: PID {pid}.")
        return None
    return ProcessDetail(pid, stat.state, None if ends is None else ends.groups.get(pid), *read)


def _around(pid: int, name: str) -> tuple[tuple[ThreadGroup, ...], Surroundings]:
    from amidiag.procfs.surroundings import surroundings
    from amidiag.procfs.threads import threads

    return threads(pid, name), surroundings(pid, name)


def _with_peers(process: ProcessObservation, ends: FarEnds | None) -> ProcessObservation:
    peers = None if ends is None else ends.peers.get(process.pid)
    return process if peers is None else replace(process, fds=replace(process.fds, peers=peers))


def _gaps(ends: FarEnds) -> list[str]:
    """Where the far end was not found, and who may see more."""
    unknown = {
        kind: sum(counts[kind].unknown for counts in ends.peers.values())
        for kind in ("pipe", "fifo", "socket")
    }
    said = ", ".join(f"{number} {kind}" for kind, number in unknown.items() if number)
    if not said:
        return []
    if ends.sight.all:
        return [f"the far end of {said} descriptors is open, but in no process: sent and not yet received."]
    ways = ["as root"] if os.geteuid() != 0 else []
    if ends.sight.in_container:
        ways.append("outside of this container")
    advice = f" Run {' and '.join(ways)} to know." if ways else ""
    return [
        f"the far end of {said} descriptors is unknown: it is held where this user cannot look "
        f"({ends.sight.unreadable} processes of this machine could not be read).{advice}"
    ]


def _identity(observation: Observation, process: ProcessObservation) -> Identity:
    return Identity(observation.boot_id, process.pid, process.start_ticks)
