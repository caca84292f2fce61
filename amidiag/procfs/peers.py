"""Who holds the other end of each pipe and FIFO of a tree, over the whole machine in one pass.

An end is matched by the pipe's inode with the descriptors of the opposite mode, wherever they are. A
copy of the same end, inherited by fork, is no peer; a descriptor opened O_RDWR is both ends. Whether an
unmatched end has a far end at all the kernel is asked (probe.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from amidiag.model import PeerCounts
from amidiag.procfs.errors import ProcessGone, explain
from amidiag.procfs.fds import (
    FdScan,
    PipeEnd,
    PipeKey,
    open_directory,
    open_mode,
    read_links,
    size_is_count,
)
from amidiag.procfs.file_types import DELETED
from amidiag.procfs.holders import Holders, Place
from amidiag.procfs.mounts import read_mounts
from amidiag.procfs.probe import FarEndProbe
from amidiag.procfs.processes import all_pids, can_hold, read_stat

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_ROUNDS = 4

NOBODY: Place = ("nobody", 0)
UNKNOWN: Place = ("unknown", 0)


Orphans = dict[tuple[PipeKey, int], bool]
"""By pipe and mode (READ or WRITE) whether that end has no far end any more, as the kernel said."""


class PeerReport(NamedTuple):
    """Peers by PID and type ("pipe"; "fifo" where there are any).

    `unreadable`: how many processes could not be looked at. `in_container`: processes outside of this
    PID namespace are invisible. An end is `unknown` if one of those holds its far end.
    """

    by_pid: Mapping[int, Mapping[str, PeerCounts]]
    unreadable: int
    in_container: bool


class Sight(NamedTuple):
    """How much of the machine was seen: see `PeerReport`. `all`: a process that was not found is not there."""

    unreadable: int
    in_container: bool

    @property
    def all(self) -> bool:
        # A /proc mounted with hidepid shows only root everything.
        return not (self.unreadable or self.in_container or os.geteuid() != 0)


def find_peers(scans: Sequence[FdScan]) -> PeerReport:
    """Match the ends of all processes of a tree, of which `scans` were just read. Raises ReaderExhausted.

    An end counts as `tree` if another process of the tree holds the opposite end, else as `other` if a
    process outside does, else as `self` if only its own process does.
    """
    holders = holders_of([scans])
    wanted = wanted_ends(holders, scans)
    sight = search(holders, wanted, (), fifo_names_of(scans, wanted))
    orphans: Orphans = {}
    by_pid = {scan.pid: _count(place_ends(scan, holders, orphans, sees_all=sight.all)) for scan in scans}
    return PeerReport(by_pid, sight.unreadable, sight.in_container)


def holders_of(trees: Sequence[Sequence[FdScan]]) -> Holders:
    """Who holds which end in each of several trees."""
    holders = Holders({scan.pid: number for number, scans in enumerate(trees) for scan in scans})
    for scans in trees:
        for scan in scans:
            for _, key, mode in scan.ends:
                holders.add(scan.pid, key, mode)
    return holders


def wanted_ends(holders: Holders, scans: Iterable[FdScan]) -> set[PipeKey]:
    """The pipes and FIFOs that the rest of the machine has to be searched for."""
    wanted = set()
    for scan in scans:
        for _, key, mode in scan.ends:
            place = holders.opposite(scan.pid, key, mode)
            if place is None or place[0] != "tree":
                wanted.add(key)
    return wanted


def fifo_names_of(scans: Iterable[FdScan], wanted: Collection[PipeKey]) -> set[str]:
    """The last parts of the paths of those FIFOs among `wanted`."""
    return {name for scan in scans for key, name in scan.fifo_names.items() if key in wanted}


def search(
    holders: Holders, wanted: Collection[PipeKey], sockets: Collection[str], fifo_names: Collection[str]
) -> Sight:
    """Add who else on this machine holds ends of `wanted`, or `sockets` (links). Raises ReaderExhausted.

    Where nothing is wanted nobody is looked at, nor counted as unreadable.
    """
    machine = _Machine(holders, wanted, sockets, fifo_names)
    if wanted or sockets:
        machine.search()
    in_container = os.readlink("/proc/self/ns/pid") != _INITIAL_PID_NAMESPACE
    return Sight(machine.unreadable, in_container)


class _Machine:
    """The light pass over every other process: only links, and the open mode of ends that are wanted."""

    def __init__(
        self,
        holders: Holders,
        wanted: Collection[PipeKey],
        sockets: Collection[str],
        fifo_names: Collection[str],
    ) -> None:
        self.unreadable = 0
        self._holders = holders
        self._wanted = wanted
        self._sockets = sockets
        self._fifo_names = fifo_names

    def search(self) -> None:
        """Look again at what was started meanwhile: a fork may have moved an end into a process just born."""
        seen = set(self._holders.tree_of)
        for turn in range(_ROUNDS):
            pids = [pid for pid in all_pids() if pid not in seen]
            if not pids:
                return
            seen.update(pids)
            for pid in pids:
                self._visit(pid, born_meanwhile=turn > 0)

    def _visit(self, pid: int, *, born_meanwhile: bool) -> None:
        try:
            # One stat spares opening kernel threads and zombies, which hold none.
            if size_is_count() and os.stat(f"/proc/{pid}/fd").st_size == 0:
                return
            directory = open_directory(pid)
            try:
                ends = list(self._wanted_ends(pid, directory))
            finally:
                os.close(directory)
        except (FileNotFoundError, ProcessLookupError):
            return  # It has ended: it holds nothing any more.
        except PermissionError:
            self.unreadable += can_hold(pid)
            return
        except OSError as error:
            raise explain(error, pid, None, "the FDs") from error
        if ends and born_meanwhile:
            self._adopt(pid)
        for key, mode in ends:
            if mode is None:
                self._holders.add_socket(pid, str(key))
            else:
                self._holders.add(pid, key, mode)

    def _wanted_ends(self, pid: int, directory: int) -> Iterable[tuple[PipeKey, int | None]]:
        """The ends with their open mode, and the sockets, whose mode is no matter."""
        wanted, sockets, fifo_names = self._wanted, self._sockets, self._fifo_names
        for fd, target in read_links(directory):
            key: PipeKey | None = target if target in wanted else None
            if key is None and target in sockets:
                yield target, None
                continue
            # All descriptors of a FIFO show its present name, whatever the mount that leads there.
            if fifo_names and target.removesuffix(DELETED).rpartition("/")[2] in fifo_names:
                key = _fifo_key(pid, fd, directory)
            if key is None or key not in wanted:
                continue
            try:
                yield key, open_mode(fd, directory)
            except FileNotFoundError:
                continue  # Closed since the listing.

    def _adopt(self, pid: int) -> None:
        """A process just born belongs to the tree of its parent."""
        try:
            tree = self._holders.tree_of.get(read_stat(pid).parent_pid)
        except ProcessGone:
            return
        if tree is not None:
            self._holders.tree_of[pid] = tree


def _fifo_key(pid: int, fd: str, directory: int) -> PipeKey | None:
    """(device, inode) of an FD, where it is safe to ask (see fds.py)."""
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
        _, found, rest = file.read().partition(b"mnt_id:")
    if not found or not read_mounts(pid).is_local(int(rest.split(None, 1)[0])):
        return None
    answer = os.stat(fd, dir_fd=directory)
    return answer.st_dev, answer.st_ino


def _count(placed: Iterable[tuple[PipeEnd, Place]]) -> dict[str, PeerCounts]:
    counts: dict[str, Counter[str]] = {"pipe": Counter()}
    for (_, key, _), (word, _) in placed:
        counts.setdefault(_type(key), Counter())[word] += 1
    return {kind: PeerCounts(**words) for kind, words in counts.items()}


def place_ends(
    scan: FdScan, holders: Holders, orphans: Orphans | None = None, *, sees_all: bool
) -> Iterator[tuple[PipeEnd, Place]]:
    """Each end of a process with where its opposite is held. Raises ReaderExhausted.

    An end opened O_PATH is left out: it is a name of the pipe, no end of it. `orphans` is filled with what
    the kernel was asked, so that the copies of an end in forked processes cost one question.
    """
    orphans = {} if orphans is None else orphans
    unmatched: list[PipeEnd] = []
    for end in scan.ends:
        _, key, mode = end
        place = holders.opposite(scan.pid, key, mode)
        if place is not None:
            yield end, place
        elif mode:
            unmatched.append(end)
    yield from zip(unmatched, _judge(scan.pid, unmatched, orphans, sees_all=sees_all), strict=True)


def _type(key: PipeKey) -> str:
    return "pipe" if isinstance(key, str) else "fifo"


def _judge(pid: int, unmatched: Sequence[PipeEnd], orphans: Orphans, *, sees_all: bool) -> list[Place]:
    """Whether each end that no visible process matches is nobody's, or someone's who is not visible."""
    _ask(pid, [end for end in unmatched if end[1:] not in orphans], orphans, sees_all=sees_all)
    # What could not be asked, a FIFO say, is nobody's only where nobody was overlooked.
    return [NOBODY if orphans.get((key, mode), sees_all) else UNKNOWN for _, key, mode in unmatched]


def _ask(pid: int, ends: Sequence[PipeEnd], orphans: Orphans, *, sees_all: bool) -> None:
    """Ask the kernel; its answers come to `orphans`."""
    # A FIFO is not asked (see probe.py); O_RDWR never comes here, as it is its own far end.
    pipes = [(fd, key) for fd, key, _ in ends if isinstance(key, str)]
    answers = dict(zip(pipes, ask_lonely(pid, pipes, sees_all=sees_all), strict=True))
    for fd, key, mode in ends:
        answer = answers.get((fd, str(key)))
        if answer is not None:
            orphans[key, mode] = answer == mode


def ask_lonely(
    pid: int, pipes: Sequence[tuple[str, str]], *, sees_all: bool, any_pipe: bool = False
) -> list[int | None]:
    """Of each pipe end, given as FD and link, what `FarEndProbe.lonely` says. Raises ReaderExhausted.

    None also where the process has ended, and where only the dear way is left and every process was seen: then
    the answer is as good as known.
    """
    if not pipes:
        return []
    try:
        with FarEndProbe(pid, opening=not sees_all) as probe:
            return probe.lonely(pipes, any_pipe=any_pipe)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return [None] * len(
            pipes
        )  # It has just ended, or changed its user: what was not asked stays unknown.
    except OSError as error:
        raise explain(error, pid, None, "the peers") from error
