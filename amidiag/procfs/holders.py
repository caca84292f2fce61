"""Which processes hold the read end, the write end or the socket of what is looked at, and where those live."""

from __future__ import annotations

from collections.abc import Set

from amidiag.procfs.fds import READ, WRITE, PipeKey

Holder = int | tuple[int, ...]
"""One PID, which is the usual case and costs no tuple, or several, in the order in which they were found."""

Place = tuple[str, int]
"""Where an end is held, `self`, `tree` or `other` (as in `PeerCounts`), and the PID of a holder."""


class Holders:
    """Holders of ends and sockets. `tree_of`: which of the trees that are looked at a PID belongs to."""

    def __init__(self, tree_of: dict[int, int]) -> None:
        self.tree_of = tree_of
        self._readers: dict[PipeKey, Holder] = {}
        self._writers: dict[PipeKey, Holder] = {}
        self._sockets: dict[str, Holder] = {}

    def add(self, pid: int, key: PipeKey, mode: int) -> None:
        """`pid` holds an end of a pipe or FIFO, opened with READ | WRITE."""
        if mode & READ and self._readers.setdefault(key, pid) != pid:
            self._readers[key] = _with(self._readers[key], pid)
        if mode & WRITE and self._writers.setdefault(key, pid) != pid:
            self._writers[key] = _with(self._writers[key], pid)

    def add_socket(self, pid: int, link: str) -> None:
        """`pid` holds the socket that its link calls `socket:[4711]`."""
        if self._sockets.setdefault(link, pid) != pid:
            self._sockets[link] = _with(self._sockets[link], pid)

    def known(self, keys: Set[PipeKey]) -> set[PipeKey]:
        """Those of which somebody has been seen to hold an end."""
        return {key for table in (self._readers, self._writers) for key in table if key in keys}

    def opposite(self, pid: int, key: PipeKey, mode: int) -> Place | None:
        """Who holds the opposite of an end of `pid`; None if nobody that was seen does.

        Another process of its tree comes before one outside, and that before itself: a pipe whose far end
        a loader holds is a channel to that loader, also while the worker keeps its own copy of the far end.
        """
        if mode == READ:
            return self._place(pid, self._writers.get(key), self._readers.get(key))
        if mode == WRITE:
            return self._place(pid, self._readers.get(key), self._writers.get(key))
        if not mode:
            return None  # O_PATH: a name of the pipe, no end of it.
        # A descriptor opened O_RDWR is both ends.
        both = _all(self._readers.get(key), self._writers.get(key))
        return self._place(pid, both or None, None)

    def far_socket(self, pid: int, links: tuple[str, ...], own: str) -> Place | None:
        """Who holds one of the sockets `links`, which are the other end of the socket `own` of `pid`."""
        found = _all(*(self._sockets.get(link) for link in links))
        return self._place(pid, found or None, self._sockets.get(own))

    def is_copy(self, pid: int, key: PipeKey, mode: int) -> bool:
        """Whether another process of its tree holds the same end as well."""
        table = self._readers if mode & READ else self._writers
        return self._shared(pid, table.get(key))

    def is_copied_socket(self, pid: int, link: str) -> bool:
        """Whether another process of its tree holds the same socket as well."""
        return self._shared(pid, self._sockets.get(link))

    def _shared(self, pid: int, holder: Holder | None) -> bool:
        if holder is None or isinstance(holder, int):
            return False
        return any(one != pid and self.tree_of.get(one) == self.tree_of[pid] for one in _all(holder))

    def _place(self, pid: int, holder: Holder | None, same_end: Holder | None) -> Place | None:
        if holder is None:
            return None
        if isinstance(holder, int):
            return self._word(pid, holder), holder
        tree = self.tree_of.get(pid)
        others = [one for one in holder if one != pid]
        inside = [one for one in others if self.tree_of.get(one) == tree]
        chosen = inside or others or [pid]
        # One who holds the far end alone is who it leads to; the rest has inherited both ends.
        copies = _all(same_end)
        who = next((one for one in chosen if one not in copies), chosen[0])
        return self._word(pid, who), who

    def _word(self, pid: int, holder: int) -> str:
        if holder == pid:
            return "self"
        return "tree" if self.tree_of.get(holder) == self.tree_of.get(pid) else "other"


def _with(holder: Holder, pid: int) -> Holder:
    known = _all(holder)
    return holder if pid in known else (*known, pid)


def _all(*holders: Holder | None) -> tuple[int, ...]:
    found: tuple[int, ...] = ()
    for holder in holders:
        if holder is not None:
            found += (holder,) if isinstance(holder, int) else holder
    return found
