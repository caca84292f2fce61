"""Orphans: named shared memory that no process of the machine maps or holds, and that stays for ever.

What a `kill -9` leaves in `/dev/shm` between creating a segment and unlinking it, what torch's
file_system strategy leaves once `torch_shm_manager` is killed too, semaphores, and SysV segments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amidiag.model import Orphan
from amidiag.procfs.creators import LivingProcesses
from amidiag.procfs.lease import Answer, FileId, lease
from amidiag.procfs.segments import SHM_DIRECTORY, kind_of
from amidiag.procfs.shm_directory import ShmFile, list_files
from amidiag.procfs.shm_names import SEMAPHORE, creator_in
from amidiag.procfs.shm_users import find_users
from amidiag.procfs.sysv import SysvSegment, read_sysv

OLDER_THAN = 60.0
"""Seconds. What was made or used since may just not be mapped yet."""


@dataclass(frozen=True, slots=True)
class FoundOrphan:
    """An orphan, and what tells it from another of the same name: a file, or a row of the SysV table."""

    orphan: Orphan
    source: FileId | SysvSegment


@dataclass(frozen=True, slots=True)
class OrphanReport:
    """Most memory first. `young`: how many are left out because they are younger than the limit."""

    found: tuple[FoundOrphan, ...]
    young: int
    notes: tuple[str, ...]

    @property
    def orphans(self) -> tuple[Orphan, ...]:
        """For the report."""
        return tuple(one.orphan for one in self.found)


def find_orphans(directory: int | None, *, sysv: bool, older_than: float = OLDER_THAN) -> OrphanReport:
    """The orphans in the `/dev/shm` of descriptor `directory` (None: none), and SysV segments where `sysv`.

    Their age is that of their last change (or use, for SysV), in seconds. Raises OSError, ReaderExhausted.
    """
    search = _Search(time.time(), older_than)
    found = [] if directory is None else list(search.files(directory, list_files(directory)))
    found += search.sysv(read_sysv() if sysv else ())
    found.sort(key=lambda one: (-(one.orphan.allocated or 0), one.orphan.name))
    return OrphanReport(tuple(found), search.young, tuple(search.notes(found)))


class _Search:
    """One search, and what it left out."""

    def __init__(self, now: float, older_than: float) -> None:
        self.young = 0
        self._hidden = 0
        self._now = now
        self._older_than = older_than
        self._living = LivingProcesses()

    def files(self, directory: int, files: Sequence[ShmFile]) -> Iterator[FoundOrphan]:
        """Those that nobody maps or holds."""
        users = find_users({file.key: SHM_DIRECTORY + file.id.name for file in files})
        for file in files:
            if users.has(file.key):
                continue
            answer = ask(directory, file.id)
            if answer == "somebody":
                self._hidden += 1
            elif answer != "changed" and self._is_old(file.changed_at):
                certain = answer == "nobody" or users.sees_all
                yield FoundOrphan(self._orphan(file, certain=certain), file.id)

    def sysv(self, rows: Sequence[SysvSegment]) -> Iterator[FoundOrphan]:
        """Those that nobody has attached: the kernel counts that itself, over all processes."""
        for row in rows:
            if row.attached or not self._is_old(row.used_at):
                continue
            alive = None
            if row.creator is not None:
                alive = self._living.is_alive(row.creator, row.changed_at, in_view=True)
            orphan = Orphan(
                name=f"sysv:{row.shmid}",
                kind="sysv",
                size=row.size,
                allocated=row.allocated,
                age=max(0.0, self._now - row.used_at),
                owner=row.owner,
                creator=row.creator,
                creator_alive=alive,
                unfinished=False,
                certain=True,
            )
            yield FoundOrphan(orphan, row)

    def notes(self, found: Sequence[FoundOrphan]) -> Iterator[str]:
        """What is not in the list, and what could not be made sure."""
        if self.young:
            yield f"not listed: {self.young} that nobody maps or holds, as young as {self._older_than:g} s or less."
        if self._hidden:
            yield (
                f"not listed: {self._hidden} that somebody has open who cannot be seen here (another user, "
                "a container, or an FD on its way through a socket): the kernel says so."
            )
        unsure = sum(not one.orphan.certain for one in found)
        if unsure:
            yield (
                f"{unsure} are not certain, as not every process of this machine could be seen. "
                "Run as root or as their owner."
            )

    def _is_old(self, changed_at: float) -> bool:
        old = self._now - changed_at > self._older_than
        self.young += not old
        return old

    def _orphan(self, file: ShmFile, *, certain: bool) -> Orphan:
        name = file.id.name
        creator = creator_in(name)
        alive = None
        if creator is not None:
            alive = self._living.is_alive(creator, file.changed_at, device=file.id.device)
        return Orphan(
            name=SHM_DIRECTORY + name,
            kind="semaphore" if name.startswith(SEMAPHORE) else kind_of(SHM_DIRECTORY + name) or "posix",
            size=file.size,
            allocated=file.allocated,
            age=max(0.0, self._now - file.changed_at),
            owner=file.owner,
            creator=creator,
            creator_alive=alive,
            unfinished=file.size > 0 and file.allocated == 0,
            certain=certain,
        )


def ask(directory: int, file: FileId) -> Answer:
    """Whether anyone has the file open: the kernel's answer."""
    with lease(directory, file) as held:
        return held.answer
