"""Who holds the other end of each pipe and FIFO of a tree, over the whole machine in one pass.

An end is matched by the pipe's inode with the descriptors of the opposite mode, wherever they are. A
copy of the same end, inherited by fork, is no peer; a descriptor opened O_RDWR is both ends. Where not
every process can be read, the kernel is asked whether an unmatched end has a far end at all (probe.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from amidiag.model import PeerCounts
from amidiag.procfs.errors import ProcessGone, explain
from amidiag.procfs.fds import (
    READ,
    WRITE,
    FdScan,
    PipeEnd,
    PipeKey,
    open_directory,
    open_mode,
    read_links,
    size_is_count,
)
from amidiag.procfs.file_types import DELETED
from amidiag.procfs.mounts import read_mounts
from amidiag.procfs.probe import FarEndProbe
from amidiag.procfs.processes import all_pids, read_stat

_INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h
_SEVERAL = -1
_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class PeerReport:
    """Peers by PID and type ("pipe"; "fifo" where there are any).

    `unreadable`: how many processes could not be looked at. `in_container`: processes outside of this
    PID namespace are invisible. An end is `unknown` if one of those holds its far end.
    """

    by_pid: Mapping[int, Mapping[str, PeerCounts]]
    unreadable: int
    in_container: bool


def find_peers(scans: Sequence[FdScan]) -> PeerReport:
    """Match the ends of all processes of a tree, of which `scans` were just read. Raises ReaderExhausted.

    An end counts as `tree` if another process of the tree holds the opposite end, else as `other` if a
    process outside does, else as `self` if only its own process does: a pipe whose far end a loader
    holds is a channel to that loader, also while the worker keeps its own copy of the far end.
    """
    tree = _Holders()
    for scan in scans:
        for _, key, mode in scan.ends:
            tree.add(scan.pid, key, mode)
    wanted = {
        key for scan in scans for _, key, mode in scan.ends if tree.opposite(scan.pid, key, mode) != "tree"
    }
    names = {name for scan in scans for key, name in scan.fifo_names.items() if key in wanted}
    outside = _Machine(wanted, names, tree, {scan.pid for scan in scans})
    outside.search()
    in_container = os.readlink("/proc/self/ns/pid") != _INITIAL_PID_NAMESPACE
    # A /proc mounted with hidepid shows only root everything.
    sees_all = not (outside.unreadable or in_container or os.geteuid() != 0)
    by_pid = {scan.pid: _count(scan, tree, outside.holders, sees_all=sees_all) for scan in scans}
    return PeerReport(by_pid, outside.unreadable, in_container)


class _Holders:
    """Which processes hold the read end and which the write end of each pipe."""

    def __init__(self) -> None:
        # One PID, or _SEVERAL: more is never asked.
        self._readers: dict[PipeKey, int] = {}
        self._writers: dict[PipeKey, int] = {}

    def add(self, pid: int, key: PipeKey, mode: int) -> None:
        if mode & READ and self._readers.setdefault(key, pid) != pid:
            self._readers[key] = _SEVERAL
        if mode & WRITE and self._writers.setdefault(key, pid) != pid:
            self._writers[key] = _SEVERAL

    def opposite(self, pid: int, key: PipeKey, mode: int) -> str | None:
        """Where the opposite of an end of `pid` is held: "tree" (another process), "self" or None."""
        found = None
        for bit, holders in ((READ, self._writers), (WRITE, self._readers)):
            holder = holders.get(key) if mode & bit else None
            if holder is not None and holder != pid:
                return "tree"
            found = found or ("self" if holder is not None else None)
        return found

    def has_opposite(self, key: PipeKey, mode: int) -> bool:
        """Whether anyone holds the opposite end."""
        return bool((mode & READ and key in self._writers) or (mode & WRITE and key in self._readers))


class _Machine:
    """The light pass over every other process: only links, and the open mode of ends that are wanted."""

    def __init__(
        self, wanted: Collection[PipeKey], fifo_names: Collection[str], tree: _Holders, tree_pids: set[int]
    ) -> None:
        self.holders = _Holders()
        self.unreadable = 0
        self._wanted = wanted
        self._fifo_names = fifo_names
        self._tree = tree
        self._tree_pids = tree_pids

    def search(self) -> None:
        """Look again at what was started meanwhile: a fork may have moved an end into a process just born."""
        seen = set(self._tree_pids)
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
            self.unreadable += _can_hold_fds(pid)
            return
        except OSError as error:
            raise explain(error, pid, None, "the FDs") from error
        holders = self._tree if ends and born_meanwhile and self._is_of_tree(pid) else self.holders
        for key, mode in ends:
            holders.add(pid, key, mode)

    def _wanted_ends(self, pid: int, directory: int) -> Iterable[tuple[PipeKey, int]]:
        wanted, fifo_names = self._wanted, self._fifo_names
        for fd, target in read_links(directory):
            key: PipeKey | None = target if target in wanted else None
            # All descriptors of a FIFO show its present name, whatever the mount that leads there.
            if fifo_names and target.removesuffix(DELETED).rpartition("/")[2] in fifo_names:
                key = _fifo_key(pid, fd, directory)
            if key is None or key not in wanted:
                continue
            try:
                yield key, open_mode(fd, directory)
            except FileNotFoundError:
                continue  # Closed since the listing.

    def _is_of_tree(self, pid: int) -> bool:
        try:
            of_tree = read_stat(pid).parent_pid in self._tree_pids
        except ProcessGone:
            return False
        if of_tree:
            self._tree_pids.add(pid)
        return of_tree


def _fifo_key(pid: int, fd: str, directory: int) -> PipeKey | None:
    """(device, inode) of an FD, where it is safe to ask (see fds.py)."""
    with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
        _, found, rest = file.read().partition(b"mnt_id:")
    if not found or not read_mounts(pid).is_local(int(rest.split(None, 1)[0])):
        return None
    answer = os.stat(fd, dir_fd=directory)
    return answer.st_dev, answer.st_ino


def _can_hold_fds(pid: int) -> bool:
    """Kernel threads and zombies hold no FDs; to be refused by them is no gap."""
    try:
        stat = read_stat(pid)
    except ProcessGone:
        return False
    return not (stat.kernel_thread or stat.ended)


def _count(scan: FdScan, tree: _Holders, outside: _Holders, *, sees_all: bool) -> dict[str, PeerCounts]:
    counts: dict[str, Counter[str]] = {"pipe": Counter()}
    unmatched: list[PipeEnd] = []
    for end in scan.ends:
        _, key, mode = end
        if not mode:
            continue  # O_PATH: a name of the pipe, no end of it.
        holder = tree.opposite(scan.pid, key, mode)
        if holder != "tree" and outside.has_opposite(key, mode):
            holder = "other"
        if holder is None:
            unmatched.append(end)
        else:
            counts.setdefault(_type(key), Counter())[holder] += 1
    for (_, key, _), holder in zip(unmatched, _judge(scan.pid, unmatched, sees_all=sees_all), strict=True):
        counts.setdefault(_type(key), Counter())[holder] += 1
    return {kind: PeerCounts(**holders) for kind, holders in counts.items()}


def _type(key: PipeKey) -> str:
    return "pipe" if isinstance(key, str) else "fifo"


def _judge(pid: int, unmatched: Sequence[PipeEnd], *, sees_all: bool) -> list[str]:
    """Whether each end that no visible process matches is nobody's, or someone's who is not visible."""
    if sees_all or not unmatched:
        return ["nobody"] * len(unmatched)
    try:
        with FarEndProbe(pid) as probe:
            return ["nobody" if _is_orphan(probe, end) else "unknown" for end in unmatched]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ["unknown"] * len(unmatched)  # It has just ended, or changed its user.
    except OSError as error:
        raise explain(error, pid, None, "the peers") from error


def _is_orphan(probe: FarEndProbe, end: PipeEnd) -> bool:
    fd, key, mode = end
    # A FIFO is not asked (see probe.py); O_RDWR never comes here, as it is its own far end.
    return isinstance(key, str) and bool(probe.is_orphan(fd, int(key[6:-1]), mode))
