"""From which line of code everything that a live process has open was made: its tables joined with `/proc`.

Only read: nothing is asked of the process, which may be stopped, hung or at EMFILE. `/proc` is read
before the tables, so that what is seen open has had the time to be written down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence

from amidiag.attach.lineage import Lineage
from amidiag.attach.matching import Matcher
from amidiag.attach.post_mortem import read_post_mortem
from amidiag.attach.second_look import closed_meanwhile
from amidiag.attach.table_finder import TableFinder
from amidiag.attach.trace_reading import NotTraced, Opened, TraceReading
from amidiag.attach.traced_process import Member
from amidiag.model import Identity
from amidiag.procfs.errors import NoPermission, ProcessGone, gone, subject
from amidiag.procfs.identity import identify, identity_of, still
from amidiag.procfs.open_files import OpenFile, list_open
from amidiag.procfs.processes import ProcStat, snapshot
from amidiag.procfs.tasks import list_threads, namespace_pids
from amidiag.procfs.tree import descendants

# Processes in a note, before it says how many more.
_NAMED = 8


def read_trace(target: int | Identity, *, tree: bool = False) -> TraceReading:
    """Read what a process has open and where it was made; with `tree` its descendants too.

    Its threads and children are among it. `notes` say which descendants are not traced or may not be read.

    Raises ProcessGone, NoPermission where the process itself may not be read, NotTraced where none of those
    asked for is traced, ReaderExhausted, NotLinux.
    """
    return _Reader(identify(target) if isinstance(target, int) else target, tree=tree).read()


class _Reader:
    """One reading, step by step."""

    def __init__(self, root: Identity, *, tree: bool) -> None:
        self._root = root
        self._tree = tree
        self._finder = TableFinder()
        self._notes: list[str] = []
        self._ended: list[int] = []

    def read(self) -> TraceReading:
        """All of it."""
        at = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        stats = snapshot()
        head = stats.get(self._root.pid)
        if head is None or head.ended or identity_of(head) != self._root:
            raise gone(self._root.pid, head.name if head else None, was_seen=True)
        below = descendants(head, stats)
        # First what is open, then the tables.
        shown = self._look(below if self._tree else below[:1])
        # Who is above left an inheritance; what comes from below was made there.
        family = [*shown, *self._others(below, shown), *self._others(_above(head, stats), shown)]
        for member in family:
            self._find_tables(member)
        shown = self._only_still_there(shown)
        self._check_traced(shown, family)
        children = [member for member in family if member.pid in {stat.pid for stat in below[1:]}]
        opened = tuple(_join(shown, children, Lineage(family)))
        self._say_what_is_missing(shown)
        return TraceReading(
            alive=True,
            file=_file(shown),
            opened=opened,
            processes=tuple(books for books in (member.books() for member in shown) if books),
            notes=tuple(self._notes),
            boot_id=self._root.boot_id,
            at=at,
            started={member.pid: member.stat.start_ticks for member in shown},
        )

    def _look(self, stats: Sequence[ProcStat]) -> list[Member]:
        """List what each of them has; the root first, zombies left out."""
        found = []
        for stat in stats:
            if stat.ended:
                continue
            try:
                files, threads = list_open(stat.pid, stat.name), list_threads(stat.pid, stat.name)
                found.append(Member(stat, namespace_pids(stat.pid, stat.name), files, threads))
            except ProcessGone:
                if stat.pid == self._root.pid:
                    raise
                self._ended.append(stat.pid)
            except NoPermission as error:
                if stat.pid == self._root.pid:
                    raise
                self._notes.append(error.text)
        return found

    def _others(self, stats: Sequence[ProcStat], known: Sequence[Member]) -> list[Member]:
        """Those whose tables may tell more, and the children, zombies too."""
        pids = {member.pid for member in known}
        found = []
        for stat in stats:
            if stat.pid in pids:
                continue
            try:
                found.append(Member(stat, namespace_pids(stat.pid)))
            except (ProcessGone, NoPermission):
                continue  # It has nothing to tell any more.
        return found

    def _find_tables(self, member: Member) -> None:
        if member.stat.ended:
            return
        try:
            member.tables = self._finder.find(identity_of(member.stat))
        except (ProcessGone, NoPermission):
            return  # If it is shown, that is said: it is checked afterwards, or was refused before.

    def _only_still_there(self, shown: list[Member]) -> list[Member]:
        left = [member for member in shown if still(identity_of(member.stat))]
        if not left or left[0].pid != self._root.pid:
            raise gone(self._root.pid, shown[0].stat.name, was_seen=True)
        self._ended += sorted({member.pid for member in shown} - {member.pid for member in left})
        return left

    def _check_traced(self, shown: Sequence[Member], family: Sequence[Member]) -> None:
        by_pid = {member.pid: member for member in family}
        for member in family:
            # A table that it has not mapped any more, since it has become another program, its parents have.
            above = _above(member.stat, {pid: m.stat for pid, m in by_pid.items()})
            members = [member, *(by_pid[stat.pid] for stat in above)]
            member.take_own(table for one in members for table in one.tables)
        if not any(member.own for member in shown):
            raise self._not_traced(shown, family)

    def _not_traced(self, shown: Sequence[Member], family: Sequence[Member]) -> NotTraced:
        head, refused = shown[0], self._refused(shown)
        name = head.stat.name
        text = f"{subject(head.pid, name)} is not traced"
        if refused:
            return NotTraced(head.pid, name, f"{text}: {'; '.join(refused)}.")
        below = [m.pid for m in family if m.own and m.stat.start_ticks >= head.stat.start_ticks]
        if below and not self._tree:
            text += f", but its descendants are: PID {_list(below)}. Trace one of those, or give --tree."
        else:
            text += (
                ". Start it with `amidiag run COMMAND` (Python with -I, -E or -S is never traced), or the "
                "worker with AMI_DIAG_TRACE=1."
            )
        return NotTraced(head.pid, name, text)

    def _refused(self, shown: Sequence[Member]) -> list[str]:
        """Why tables of these processes are not believed, each once."""
        return list(
            dict.fromkeys(why for member in shown for why in self._finder.refused.get(member.pid, ()))
        )

    def _say_what_is_missing(self, shown: Sequence[Member]) -> None:
        unseen = [f"{member.pid} ({member.stat.name})" for member in shown if not member.own]
        if unseen:
            more = f" and {len(unseen) - _NAMED} more" if len(unseen) > _NAMED else ""
            names = ", ".join(unseen[:_NAMED])
            self._notes.append(f"not traced, so what they make is not seen: PID {names}{more}.")
        self._notes += [f"{text}." for text in self._refused(shown)]
        if self._ended:
            self._notes.append(f"ended while the tree was read, left out: PID {_list(self._ended)}.")
        nameless = sum(file.inode is None for member in shown for file in member.files)
        if nameless:
            self._notes.append(
                f"{nameless} FDs are on a detached file system, or one that could block: they are not attributed."
            )


def _join(shown: Sequence[Member], children: Sequence[Member], lineage: Lineage) -> Iterator[Opened]:
    matcher = Matcher(lineage)
    started = _started(shown, children, matcher)
    for member in shown:
        made = matcher.of_files(member, member.files)
        files = list(zip(member.files, made, strict=True))
        gone = closed_meanwhile(member, [file for file, by in files if by is None])
        for file, by in files:
            if by is not None or file not in gone:
                yield Opened(member.pid, file.type, file.fd, _key(file), file.bytes, by)
        for tid, by in zip(member.threads, matcher.of_threads(member), strict=True):
            yield Opened(member.pid, "thread", None, (tid,), None, by)
        yield from started.get(member.pid, ())


def _started(
    shown: Sequence[Member], children: Sequence[Member], matcher: Matcher
) -> dict[int, list[Opened]]:
    """Every child process under the one that has started it."""
    by_pid = {member.pid: member for member in shown}
    started: dict[int, list[Opened]] = {}
    for child in children:
        made, parent = matcher.of_child(child, by_pid.get(child.stat.parent_pid))
        if parent is not None and parent.pid in by_pid:
            row = Opened(parent.pid, "process", None, (child.pid,), None, made)
            started.setdefault(parent.pid, []).append(row)
    return started


def _key(file: OpenFile) -> tuple[int | None, ...]:
    if file.type == "semaphore":
        return file.device, file.inode, file.address
    return file.device, file.inode


def _above(stat: ProcStat, stats: Mapping[int, ProcStat]) -> list[ProcStat]:
    """Its parent, the parent of that, and so on, as far as they are among `stats`."""
    found: list[ProcStat] = []
    parent = stats.get(stat.parent_pid)
    while parent is not None and parent.start_ticks <= stat.start_ticks and parent not in found:
        found.append(parent)
        stat, parent = parent, stats.get(parent.parent_pid)
    return found


def _file(shown: Sequence[Member]) -> str | None:
    """The table of the first process that has one."""
    for member in shown:
        for region in member.own[:1]:
            return next((table.path for table in member.tables if region in table.regions), None)
    return None


def _list(pids: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(pids)))


__all__ = ["NotTraced", "Opened", "TraceReading", "read_post_mortem", "read_trace"]
