"""The pieces of shared memory of a process or a tree, one by one: who maps them, who holds them, who made them.

RssShmem sees only what is mapped: a batch that waits in a queue lives as an FD alone. That is `in_flight`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amidiag.model import Identity, SegmentUse
from amidiag.procfs.creators import LivingProcesses
from amidiag.procfs.errors import NoPermission, ProcessGone, gone, subject, who_may_read
from amidiag.procfs.fds import scan
from amidiag.procfs.file_types import DELETED
from amidiag.procfs.identity import still
from amidiag.procfs.segments import SHM_DIRECTORY, Segment
from amidiag.procfs.shm import Holding, Key, read_holding, unite
from amidiag.procfs.shm_names import creator_in
from amidiag.procfs.shm_users import Users, find_users
from amidiag.procfs.sysv import SysvSegment, read_sysv, same_ipc_namespace


@dataclass(frozen=True, slots=True)
class TreeSegments:
    """The segments, most memory first.

    `in_flight`: bytes that only FDs hold; None where a process could not be read. `notes`: what could not be
    seen, and who may see it.
    """

    segments: tuple[SegmentUse, ...]
    in_flight: int | None
    notes: tuple[str, ...]


def read_segments(members: Sequence[tuple[Identity, str]]) -> TreeSegments:
    """The segments that the processes `members` (the first is the root, each with its name) map or hold.

    Who uses them is looked for over the whole machine. A member that ends meanwhile is left out. Raises
    ProcessGone where the root has ended, ReaderExhausted.
    """
    notes: list[str] = []
    holdings = _read_holdings(members, notes)
    united = unite(holdings)
    users = find_users({key: segment.name for key, segment in united.items()})
    if not still(members[0][0]):
        raise gone(members[0][0].pid, members[0][1], was_seen=True)
    if united and users.unreadable:
        notes.append(
            f"processes of this machine that could not be read: {len(users.unreadable)}. Who else maps or holds "
            f"a segment may be missing. The first: {who_may_read(users.unreadable[0])}"
        )
    segments = _describe(united, users, _sysv_of(members[0][0].pid, united, notes))
    return TreeSegments(segments, None if not holdings else _in_flight(segments), tuple(notes))


def _read_holdings(members: Iterable[tuple[Identity, str]], notes: list[str]) -> list[Holding]:
    holdings = []
    for identity, name in members:
        try:
            holdings.append(read_holding(scan(identity.pid, name, ends=False), name))
        except ProcessGone:
            continue
        except NoPermission:
            who = who_may_read(identity.pid)
            notes.append(f"segments of {subject(identity.pid, name)} cannot be read: {who}")
    return holdings


def _sysv_of(pid: int, united: Mapping[Key, Segment], notes: list[str]) -> Mapping[int, SysvSegment]:
    """The kernel's table of SysV segments, where there are any and the table is that of the target."""
    if not any(segment.kind == "sysv" for segment in united.values()):
        return {}
    if not same_ipc_namespace(pid):
        notes.append("SysV segments live in another IPC namespace: their creators are not known here.")
        return {}
    return {row.shmid: row for row in read_sysv()}


def _describe(
    united: Mapping[Key, Segment], users: Users, sysv: Mapping[int, SysvSegment]
) -> tuple[SegmentUse, ...]:
    living = LivingProcesses() if united else None
    now = time.time()
    found = []
    for key, segment in united.items():
        if living is None or not users.has(key):
            continue  # Closed and unmapped by all since it was seen.
        row = sysv.get(segment.inode) if segment.kind == "sysv" else None
        made_at = row.changed_at if row else segment.changed_at
        creator = row.creator if row else _creator_of(segment)
        found.append(
            SegmentUse(
                name=segment.name.removesuffix(DELETED),
                kind=segment.kind,
                deleted=segment.name.endswith(DELETED),
                size=row.size if row else segment.size,
                allocated=segment.allocated,
                mapped_by=tuple(users.mapped_by.get(key, ())),
                held_by=tuple(users.held_by.get(key, ())),
                in_flight=key not in users.mapped_by,
                creator=creator,
                creator_alive=None if creator is None else living.is_alive(creator, made_at),
                age=None if made_at is None else max(0.0, now - made_at),
            )
        )
    return tuple(sorted(found, key=lambda s: (-(s.allocated or 0), s.name)))


def _creator_of(segment: Segment) -> int | None:
    name = segment.name.removesuffix(DELETED)
    return creator_in(name.removeprefix(SHM_DIRECTORY)) if name.startswith(SHM_DIRECTORY) else None


def _in_flight(segments: Iterable[SegmentUse]) -> int | None:
    sizes = [segment.allocated for segment in segments if segment.in_flight]
    return None if None in sizes else sum(size for size in sizes if size is not None)
