"""The pieces of shared memory of a process or a tree, one by one: who maps them, who holds them, who made them.

RssShmem sees only what is mapped: a batch that waits in a queue lives as an FD alone, or with torch's
file_system strategy as a name alone. Both are `in_flight`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from amidiag.model import Identity, SegmentUse
from amidiag.procfs.creators import LivingProcesses, numbers_of
from amidiag.procfs.errors import NoPermission, ProcessGone, gone, who_may_read
from amidiag.procfs.fds import scan
from amidiag.procfs.file_types import DELETED
from amidiag.procfs.identity import still
from amidiag.procfs.segments import SHM_DIRECTORY, Segment, kind_of
from amidiag.procfs.shm import Holding, Key, read_holding, unite
from amidiag.procfs.shm_directory import list_files
from amidiag.procfs.shm_names import creator_in
from amidiag.procfs.shm_users import Users, find_users
from amidiag.procfs.sysv import SysvSegment, read_sysv, same_ipc_namespace


@dataclass(frozen=True, slots=True)
class TreeSegments:
    """The segments, most memory first.

    `in_flight`: bytes that only FDs hold, or only a name; None where a process or a size could not be read.
    `refused`: PIDs that this user may not read. `notes`: what else could not be seen, and who may see it.
    """

    segments: tuple[SegmentUse, ...]
    in_flight: int | None
    refused: tuple[int, ...]
    notes: tuple[str, ...]


def read_segments(members: Sequence[tuple[Identity, str]], directory: int | None = None) -> TreeSegments:
    """The segments that the processes `members` (the first is the root, each with its name) map or hold.

    With `directory`, a descriptor of their `/dev/shm`, also what torch has made there in one of them and
    nobody maps or holds: it waits by its name. Who uses a segment is looked for over the whole machine. A
    member that ends meanwhile is left out. Raises ProcessGone where the root has ended, ReaderExhausted.
    """
    notes: list[str] = []
    holdings, refused = _read_holdings(members)
    united = unite(holdings)
    waiting = {} if directory is None else _made_by(members, directory, united)
    users = find_users({key: segment.name for key, segment in (united | waiting).items()})
    if not still(members[0][0]):
        raise gone(members[0][0].pid, members[0][1], was_seen=True)
    if united and users.unreadable:
        notes.append(
            f"processes of this machine that could not be read: {len(users.unreadable)}. Who else maps or holds "
            f"a segment may be missing. The first: {who_may_read(users.unreadable[0])}"
        )
    # What somebody else maps, who is not asked for, is that one's.
    waiting = {key: segment for key, segment in waiting.items() if not users.has(key)}
    seen = {key: segment for key, segment in united.items() if users.has(key)}
    segments = _describe(seen | waiting, users, _sysv_of(members[0][0].pid, seen, notes))
    return TreeSegments(segments, None if refused else _in_flight(segments), refused, tuple(notes))


def _read_holdings(members: Iterable[tuple[Identity, str]]) -> tuple[list[Holding], tuple[int, ...]]:
    """What each holds, and the PIDs of those that refuse."""
    holdings, refused = [], []
    for identity, name in members:
        try:
            holdings.append(read_holding(scan(identity.pid, name, ends=False), name))
        except ProcessGone:
            continue
        except NoPermission:
            refused.append(identity.pid)
    return holdings, tuple(refused)


def _made_by(
    members: Iterable[tuple[Identity, str]], directory: int, known: Mapping[Key, Segment]
) -> dict[Key, Segment]:
    """What stands in `/dev/shm` under a torch name with the PID of a member, as far as it is not `known`."""
    numbers = {number for identity, _ in members for number in numbers_of(identity.pid)}
    found = {}
    for file in list_files(directory):
        name = SHM_DIRECTORY + file.id.name
        if kind_of(name) == "torch" and creator_in(file.id.name) in numbers and file.key not in known:
            found[file.key] = Segment(*file.key, "torch", name, file.size, file.allocated, file.changed_at)
    return found


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
    if not united:
        return ()
    living = LivingProcesses()
    now = time.time()
    found = []
    for key, segment in united.items():
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
                creator_alive=None
                if creator is None
                else living.is_alive(creator, made_at, device=_dev_shm_of(segment)),
                age=None if made_at is None else max(0.0, now - made_at),
            )
        )
    return tuple(sorted(found, key=lambda s: (-(s.allocated or 0), s.name)))


def _dev_shm_of(segment: Segment) -> int | None:
    """Which `/dev/shm` the creator must see to be that; None of what lives elsewhere."""
    return segment.device if segment.name.startswith(SHM_DIRECTORY) else None


def _creator_of(segment: Segment) -> int | None:
    name = segment.name.removesuffix(DELETED)
    return creator_in(name.rpartition("/")[2]) if segment.kind in ("torch", "posix", "tmpfs") else None


def _in_flight(segments: Iterable[SegmentUse]) -> int | None:
    sizes = [segment.allocated for segment in segments if segment.in_flight]
    return None if None in sizes else sum(size for size in sizes if size is not None)
