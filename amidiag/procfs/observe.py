"""The full look: one tree at one instant, as pure data."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence

from amidiag.model import (
    DevShm,
    FdTable,
    Identity,
    Observation,
    PeerCounts,
    ProcessObservation,
    Role,
    ShmUse,
    StatusView,
    TreeUse,
)
from amidiag.procfs.errors import CannotObserve, NoPermission, ProcessGone, gone, subject, who_may_read
from amidiag.procfs.fds import FdScan, scan
from amidiag.procfs.identity import boot_id, identify, identity_of, started_at, still
from amidiag.procfs.peers import PeerReport, Sight, find_peers
from amidiag.procfs.processes import read_cmdline
from amidiag.procfs.reading import Reading, Scanner, read_process
from amidiag.procfs.roles import guess_roles
from amidiag.procfs.shm import complete, dev_shm, total, unite, use_of
from amidiag.procfs.tree import read_tree

StatusReader = Callable[[Identity], StatusView | None]


def observe_tree(
    target: int | Identity,
    *,
    peers: bool = True,
    shm: bool = True,
    status_reader: StatusReader | None = None,
    scanner: Scanner | None = None,
) -> Observation:
    """Observe a process and all its descendants. Nothing in them is disturbed.

    `peers` looks at the FDs of every process of the machine; `shm` reads memory maps; `status_reader`
    gives what a worker says of itself; `scanner` reads the FDs instead of `fds.scan`, for one who wants
    to keep more of them. What this user may not read is None, and `notes` says what is
    missing and who may read it. A descendant that ends meanwhile is left out, with a note.

    Raises ProcessGone where the root does not exist or ends meanwhile, NoPermission where `/proc` hides
    it, ReaderExhausted where amidiag has no FD left, NotLinux.
    """
    root = identify(target) if isinstance(target, int) else target
    at = time.monotonic()
    notes: list[str] = []
    scanner = scanner or (_scan_with_ends if peers else _scan_types)
    readings = _read_members(root, notes, scanner, with_shm=shm)
    # Right beside the FDs, before the look at the whole machine: growth is held against these counters.
    views = {r.pid: status_reader(identity_of(r.stat)) for r in readings} if status_reader else {}
    report = find_peers([r.scan for r in readings if r.scan]) if peers else None
    use = _tree_use(readings, notes) if shm else TreeUse(None, None, None)
    roles = _roles(readings, {pid for pid, view in views.items() if view is not None})
    # Last, so that it vouches for all that was read by PID above.
    readings = _only_still_there(readings, notes)
    notes += _stopped(readings) + _gaps(readings, report)
    return Observation(
        host=os.uname().nodename,
        boot_id=boot_id(),
        at=at,
        processes=tuple(_process(r, roles[r.pid], report, views.get(r.pid)) for r in readings),
        tree=use,
        notes=tuple(notes),
    )


def _scan_with_ends(pid: int, name: str | None) -> FdScan:
    return scan(pid, name)


def _scan_types(pid: int, name: str | None) -> FdScan:
    return scan(pid, name, ends=False)


def _read_members(root: Identity, notes: list[str], scanner: Scanner, *, with_shm: bool) -> list[Reading]:
    readings: list[Reading] = []
    zombies: list[int] = []
    ended: list[int] = []
    for stat in read_tree(root):
        if stat.ended:
            zombies.append(stat.pid)
            continue
        try:
            readings.append(read_process(stat, scanner=scanner, with_shm=with_shm))
        except ProcessGone as error:
            if stat.pid == root.pid:
                raise gone(root.pid, stat.name, was_seen=True) from error
            ended.append(stat.pid)
    if zombies:
        notes.append(f"ended, not yet reaped by the parent, holding nothing (zombies): PID {_list(zombies)}.")
    if ended:
        notes.append(_ended(ended))
    return readings


def _only_still_there(readings: Sequence[Reading], notes: list[str]) -> list[Reading]:
    ended = {r.pid for r in readings if not still(identity_of(r.stat))}
    root = readings[0]
    if root.pid in ended:
        raise gone(root.pid, root.stat.name, was_seen=True)
    if ended:
        notes.append(_ended(ended))
    return [r for r in readings if r.pid not in ended]


def _roles(readings: Sequence[Reading], speaking: Collection[int]) -> dict[int, Role]:
    cmdlines = {}
    for reading in readings:
        try:
            cmdlines[reading.pid] = read_cmdline(reading.pid)
        except CannotObserve:
            cmdlines[reading.pid] = ()  # Ended: it will be left out anyway.
    return guess_roles([r.stat for r in readings], cmdlines, speaking=speaking)


def _tree_use(readings: Sequence[Reading], notes: list[str]) -> TreeUse:
    """Shared memory of the whole tree, each segment once; also completes each process's own holding."""
    united = unite(r.holding for r in readings if r.holding)
    for reading in readings:
        if reading.holding:
            reading.holding = complete(reading.holding, united)
    allocated, is_lower_bound = total(united.values())
    if is_lower_bound:
        notes.append(
            "some mapped shared memory could not be followed, as only root may (map_files): "
            "shared memory held is a lower bound. Run as root."
        )
    missing = any(r.holding is None for r in readings)
    return TreeUse(
        shm_unique=None if readings[0].holding is None else allocated,
        shm_unique_is_lower_bound=None if readings[0].holding is None else is_lower_bound or missing,
        dev_shm=_dev_shm(readings[0]),
    )


def _dev_shm(root: Reading) -> DevShm | None:
    try:
        return dev_shm(root.pid, root.stat.name)
    except NoPermission:
        root.refused.append("/dev/shm")
        return None


def _process(
    reading: Reading, role: Role, report: PeerReport | None, view: StatusView | None
) -> ProcessObservation:
    stat, status, scan = reading.stat, reading.status, reading.scan
    peers: dict[str, PeerCounts] | None = None
    if report is not None and scan is not None:
        peers = dict(report.by_pid[reading.pid])
    shmem = status.memory.shmem
    return ProcessObservation(
        pid=stat.pid,
        start_ticks=stat.start_ticks,
        started_at=started_at(stat.start_ticks),
        name=stat.name,
        role=role,
        parent_pid=stat.parent_pid or None,
        threads=status.threads,
        fds=FdTable(
            open=reading.open,
            soft_limit=reading.limit.soft,
            hard_limit=reading.limit.hard,
            by_type=None if scan is None else dict(scan.by_type),
            peers=peers,
        ),
        memory=status.memory,
        shm=ShmUse(shmem, None, None) if reading.holding is None else use_of(reading.holding, shmem),
        status=view,
    )


def _gaps(readings: Sequence[Reading], report: PeerReport | None) -> list[str]:
    """What could not be seen, and what to do about it."""
    notes = [
        f"{', '.join(r.refused)} of {subject(r.pid, r.stat.name)} cannot be read: {who_may_read(r.pid)}"
        for r in readings
        if r.refused
    ]
    not_asked = sum(r.scan.not_asked for r in readings if r.scan)
    if not_asked:
        notes.append(
            f"{not_asked} FDs count as type file: on a network, FUSE or detached file system, where to ask "
            "for more could block for ever."
        )
    devices = sum(r.holding.device_mappings for r in readings if r.holding)
    if devices:
        notes.append(f"memory behind {devices} mapped device files is not known to the kernel: not counted.")
    return notes + _peer_gaps(report)


def _peer_gaps(report: PeerReport | None) -> list[str]:
    if report is None:
        return []
    unknown = sum(counts.unknown for peers in report.by_pid.values() for counts in peers.values())
    if not unknown:
        return []
    if Sight(report.unreadable, report.in_container).all:
        return [
            f"the far end of {unknown} pipe descriptors is open, but in no process: sent and not yet received."
        ]
    ways = ["as root"] if os.geteuid() != 0 else []
    if report.in_container:
        ways.append("outside of this container")
    advice = f" Run {' and '.join(ways)} to know." if ways else ""
    return [
        f"the far end of {unknown} pipe descriptors is unknown: it is held where this user cannot look "
        f"({report.unreadable} processes of this machine could not be read).{advice}"
    ]


def _stopped(readings: Sequence[Reading]) -> list[str]:
    """proc_pid_stat(5): T is stopped by a signal, t by a debugger. One that is stopped looks alive and does nothing."""
    by_state = {"T": "stopped by a signal, until SIGCONT", "t": "stopped by what traces it (a debugger)"}
    pids = {state: [r.pid for r in readings if r.status.state == state] for state in by_state}
    return [f"{how}: PID {_list(pids[state])}." for state, how in by_state.items() if pids[state]]


def _ended(pids: Collection[int]) -> str:
    return f"ended while the tree was read, left out: PID {_list(pids)}."


def _list(pids: Collection[int]) -> str:
    return ", ".join(map(str, sorted(pids)))
