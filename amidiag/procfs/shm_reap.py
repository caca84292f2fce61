"""Removes orphaned shared memory: the only thing in this room that writes, and it does so only when told to.

Nothing is removed that might belong to the living. What decides is asked again right before each removal,
and for files under a lease: as long as it is held nobody opens the file without our knowing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amidiag.procfs.creators import LivingProcesses
from amidiag.procfs.lease import FileId, Lease, lease
from amidiag.procfs.segments import SHM_DIRECTORY
from amidiag.procfs.shm_names import maker_of
from amidiag.procfs.shm_orphans import FoundOrphan
from amidiag.procfs.shm_users import Users, find_users
from amidiag.procfs.sysv import SysvSegment, read_sysv, remove_sysv

_CHANGED = "it was changed, replaced or removed since it was listed"
_IN_USE = "somebody has opened it since it was listed"
_NOT_SEEN = "not every process that may use it could be seen: run as root or as its owner"


@dataclass(frozen=True, slots=True)
class Sorted:
    """What `--reap` may remove, and why it keeps the rest, by name."""

    removable: tuple[FoundOrphan, ...]
    kept: dict[str, str]


def sort_out(directory: int, found: Sequence[FoundOrphan], *, any_name: bool) -> Sorted:
    """Tell orphans that may be removed from those that may still be wanted.

    `any_name`: also files that no known program names so. Raises OSError, ReaderExhausted.
    """
    living = LivingProcesses()
    device = os.fstat(directory).st_dev
    kept = {}
    for one in found:
        reason = _why_keep(one, living, device, any_name=any_name)
        if reason is not None:
            kept[one.orphan.name] = reason
    return Sorted(tuple(one for one in found if one.orphan.name not in kept), kept)


def remove(
    directory: int, chosen: Sequence[FoundOrphan], *, any_name: bool
) -> Iterator[tuple[str, str | None]]:
    """Remove what `sort_out` found removable: the name of each, and why it was kept, None where it is gone.

    Raises OSError, ReaderExhausted before anything is removed.
    """
    # Anew: a person may have thought about it for an hour.
    again = sort_out(directory, chosen, any_name=any_name)
    users = _users(one.source for one in again.removable if isinstance(one.source, FileId))
    yield from again.kept.items()
    for one in again.removable:
        if isinstance(one.source, FileId):
            yield one.orphan.name, remove_file(directory, one.source, users)
        else:
            yield one.orphan.name, _remove_sysv(one.source)


def _why_keep(one: FoundOrphan, living: LivingProcesses, device: int, *, any_name: bool) -> str | None:
    orphan, source = one.orphan, one.source
    if not orphan.certain:
        return _NOT_SEEN
    if isinstance(source, SysvSegment):
        return _why_keep_sysv(source, living)
    if maker_of(source.name) is None and not any_name:
        return "no known program gives such names, it may be anybody's file: --any-name takes it too"
    made_at = source.changed / 1e9
    if orphan.creator is not None:
        alive = living.is_alive(orphan.creator, made_at, device=device)
        if alive:
            return f"its maker, PID {orphan.creator}, runs and may have it queued (file_system strategy)"
        # Nobody has finished it, so nobody was given its name.
        if alive is None and not orphan.unfinished:
            return f"its maker, PID {orphan.creator}, may run outside of this container: run amidiag there"
    manager = living.manager_of(device, made_at) if orphan.kind == "torch" and not orphan.unfinished else None
    return None if manager is None else f"torch_shm_manager, PID {manager}, runs and may still hand it out"


def _why_keep_sysv(row: SysvSegment, living: LivingProcesses) -> str | None:
    if row.creator is None:
        return "its maker lives in a PID namespace that cannot be seen from here"
    if living.is_alive(row.creator, row.changed_at, in_view=True) is not False:
        return f"its maker, PID {row.creator}, runs or cannot be seen"
    return None


def _users(files: Iterator[FileId]) -> Users:
    return find_users({(file.device, file.inode): SHM_DIRECTORY + file.name for file in files})


def remove_file(directory: int, file: FileId, users: Users) -> str | None:
    """Remove one file, unless it has changed, `users` has it, or the kernel says that somebody does.

    Why it was kept; None where it is gone.
    """
    if users.has((file.device, file.inode)):
        return _IN_USE
    try:
        with lease(directory, file) as held:
            reason = _why_not_now(held, file)
            if reason is None:
                os.unlink(file.name, dir_fd=directory)
            return reason
    except FileNotFoundError:
        return _CHANGED
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"


def _why_not_now(held: Lease, file: FileId) -> str | None:
    if held.answer == "changed":
        return _CHANGED
    if held.answer == "somebody":
        return _IN_USE
    if held.answer == "nobody":
        return None if held.still_alone() else _IN_USE
    # No leases here: then every process is looked at once more, for this one file.
    users = _users(iter([file]))
    if users.has((file.device, file.inode)):
        return _IN_USE
    return None if users.sees_all else _NOT_SEEN


def _remove_sysv(row: SysvSegment) -> str | None:
    now = next((other for other in read_sysv() if other.shmid == row.shmid), None)
    if now is None or (now.key, now.creator, now.changed_at, now.used_at) != (
        row.key,
        row.creator,
        row.changed_at,
        row.used_at,
    ):
        return _CHANGED
    if now.attached:
        return _IN_USE
    try:
        remove_sysv(row.shmid)
    except OSError as error:
        return f"it cannot be removed: {error.strerror}"
    return None
