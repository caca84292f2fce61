"""The FDs of several trees in groups, with who holds the other end: of pipes, FIFOs, unix and loopback sockets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from amidiag.model import FdGroup, PeerCounts
from amidiag.procfs.errors import explain
from amidiag.procfs.fd_groups import Grouper, name_of
from amidiag.procfs.fd_listing import FdListing
from amidiag.procfs.fds import READ, WRITE, PipeKey, open_modes
from amidiag.procfs.holders import Holders, Place
from amidiag.procfs.peers import (
    NOBODY,
    UNKNOWN,
    Orphans,
    Sight,
    ask_lonely,
    fifo_names_of,
    holders_of,
    place_ends,
    search,
    wanted_ends,
)
from amidiag.procfs.sockets import Socket, read_sockets

Chosen = Callable[[str], bool]
"""Whether an FD belongs into the groups."""


class FarEnds(NamedTuple):
    """By PID: who holds the other ends, by type (as `peers.PeerReport`, with sockets), and all FDs in groups."""

    peers: Mapping[int, Mapping[str, PeerCounts]]
    groups: Mapping[int, tuple[FdGroup, ...]]
    sight: Sight


def find_far_ends(
    trees: Sequence[Sequence[FdListing]], chosen: Mapping[int, Chosen] | None = None
) -> FarEnds:
    """Look for the other ends over the whole machine, once for all trees, each of which was just read.

    `chosen` says by PID which FDs belong into its groups; without it all do. Raises ReaderExhausted.
    """
    listings = [listing for tree in trees for listing in tree]
    holders = holders_of(trees)
    for listing in listings:
        for _, link in listing.sockets:
            holders.add_socket(listing.pid, link)
    sockets = _sockets_of(listings)
    _settle(listings, holders, _common(listings))
    wanted = wanted_ends(holders, listings)
    fifo_names = fifo_names_of(listings, wanted)
    for listing in listings:
        wanted.update([link for _, link in listing.lone])
    sight = search(holders, wanted, _wanted_sockets(holders, listings, sockets), fifo_names)
    _settle(listings, holders, holders.known(wanted))
    found = [
        _Process(listing, holders, sight, sockets, (chosen or {}).get(listing.pid)) for listing in listings
    ]
    orphans: Orphans = {}
    for process in found:
        process.sort(orphans)
    return FarEnds(
        {process.pid: process.counts() for process in found},
        {process.pid: process.grouper.groups() for process in found},
        sight,
    )


def _common(listings: Sequence[FdListing]) -> set[PipeKey]:
    """Pipes that several processes have one FD of."""
    if len(listings) < 2:
        return set()
    counts = Counter([link for listing in listings for _, link in listing.lone])
    return {link for link, number in counts.items() if number > 1}


def _settle(listings: Iterable[FdListing], holders: Holders, seen: Collection[PipeKey]) -> None:
    """What was taken for lone and has been `seen` elsewhere is none: which end it is matters now."""
    for listing in listings:
        found = [pipe for pipe in listing.lone if pipe[1] in seen] if seen else []
        modes = listing.modes_of(found)
        for fd, link in found:
            mode = modes.get(fd)
            if mode is not None:
                listing.ends.append((fd, link, mode))
                holders.add(listing.pid, link, mode)
        if modes:
            listing.lone = [pipe for pipe in listing.lone if pipe[0] not in modes]


def _sockets_of(listings: Iterable[FdListing]) -> dict[str, Socket]:
    """All sockets, by link."""
    listings = [listing for listing in listings if listing.sockets]
    inodes = {int(link[8:-1]) for listing in listings for _, link in listing.sockets}
    if not inodes:
        return {}
    try:
        found = read_sockets([listing.pid for listing in listings], inodes)
    except OSError as error:
        raise explain(error, None, None, "the sockets") from error
    return {_link(inode): one for inode, one in found.items()}


def _link(inode: int) -> str:
    return f"socket:[{inode}]"


def _wanted_sockets(
    holders: Holders, listings: Iterable[FdListing], sockets: Mapping[str, Socket]
) -> set[str]:
    wanted: set[str] = set()
    for listing in listings:
        for _, link in listing.sockets:
            one = sockets.get(link)
            if one is not None and one.far:
                links = tuple(map(_link, one.far))
                place = holders.far_socket(listing.pid, links, link)
                if place is None or place[0] != "tree":
                    wanted.update(links)
    return wanted


class _Process:
    """Sorts the FDs of one process into groups, and counts who holds the other ends."""

    def __init__(
        self,
        listing: FdListing,
        holders: Holders,
        sight: Sight,
        sockets: Mapping[str, Socket],
        chosen: Chosen | None,
    ) -> None:
        self.pid = listing.pid
        self.grouper = Grouper()
        self._listing = listing
        self._holders = holders
        self._sight = sight
        self._sockets = sockets
        self._chosen = chosen
        # Each type that has other ends is in the answer, also where there is none of it.
        self._counts: dict[str, Counter[str]] = {kind: Counter() for kind in ("pipe", "fifo", "socket")}

    def counts(self) -> dict[str, PeerCounts]:
        """Who holds the other ends of all FDs, chosen or not."""
        return {kind: PeerCounts(**words) for kind, words in self._counts.items()}

    def sort(self, orphans: Orphans) -> None:
        """`orphans`: see `place_ends`. Raises ReaderExhausted."""
        self._sort_ends(orphans)
        self._sort_lone()
        try:
            self._sort_sockets()
        except OSError as error:
            raise explain(error, self.pid, None, "the sockets") from error
        self._sort_others()

    def _sort_ends(self, orphans: Orphans) -> None:
        holders, chosen, pid, paths = self._holders, self._chosen, self.pid, self._listing.fifo_paths
        names = {fifo: ("fifo", name_of("fifo", path)) for fifo, path in paths.items()}
        pipe = "pipe", ("pipe", "pipe")
        for (fd, key, mode), (word, holder) in place_ends(
            self._listing, holders, orphans, sees_all=self._sight.all
        ):
            kind, name = pipe if isinstance(key, str) else names[key]
            self._counts[kind][word] += 1
            if chosen is None or chosen(fd):
                self.grouper.add(
                    kind,
                    name,
                    fd,
                    mode,
                    peer=word,
                    holder=0 if holder == pid else holder,
                    inherited=holders.is_copy(pid, key, mode),
                )
        for fd, key, mode in self._listing.ends:
            if not mode and (chosen is None or chosen(fd)):
                kind, name = pipe if isinstance(key, str) else names[key]
                self.grouper.add(kind, name, fd, mode)

    def _sort_lone(self) -> None:
        lone, sees_all = self._listing.lone, self._sight.all
        # What is asked is whether anyone holds the far end of this FD, and not of which pipe it is.
        asked = ask_lonely(self.pid, lone, sees_all=sees_all, any_pipe=True)
        for end in (READ, WRITE):
            fds = [fd for (fd, _), answer in zip(lone, asked, strict=True) if answer == end]
            self._add_lone("nobody", end, fds)
        # What somebody holds, 0, is in no process that was seen; what could not be asked is nobody's if all were.
        for answer, word in ((0, "unknown"), (None, "nobody" if sees_all else "unknown")):
            rest = [fd for (fd, _), one in zip(lone, asked, strict=True) if one == answer]
            modes = open_modes(self.pid, rest) if rest else []
            # A descriptor opened O_RDWR is its own far end; one opened O_PATH is a name of the pipe, no end of it.
            words: dict[int | None, str | None] = {READ | WRITE: "self", 0: None}
            for mode in set(modes):
                fds = [fd for fd, one in zip(rest, modes, strict=True) if one == mode]
                self._add_lone(words.get(mode, word), mode, fds)

    def _add_lone(self, word: str | None, mode: int | None, fds: list[str]) -> None:
        if word is not None and fds:
            self._counts["pipe"][word] += len(fds)
        of_interest = fds if self._chosen is None else list(filter(self._chosen, fds))
        self.grouper.add_many("pipe", ("pipe", "pipe"), of_interest, mode, peer=word)

    def _sort_sockets(self) -> None:
        from amidiag.procfs.socket_names import SocketNamer, name_by_kernel

        known = self._sockets
        namer = SocketNamer(known[link] for _, link in self._listing.sockets if link in known)
        for fd, link in self._listing.sockets:
            one = known.get(link)
            place = None if one is None else self._place(one, link)
            if place is not None:
                self._counts["socket"][place[0]] += 1
            if self._chosen is not None and not self._chosen(fd):
                continue
            name = name_by_kernel(self.pid, fd, link) if one is None else namer.name(one)
            word, holder = place or (None, 0)
            copied = self._holders.is_copied_socket(self.pid, link)
            self.grouper.add(
                "socket",
                name,
                fd,
                READ | WRITE,
                peer=word,
                holder=0 if holder == self.pid else holder,
                inherited=copied,
            )

    def _place(self, one: Socket, link: str) -> Place | None:
        """Who holds the other end; None where there is none on this machine."""
        if one.far is None:
            return None
        if one.orphan:
            return NOBODY
        # Open and held by nobody that was seen: sent and not yet received, or hidden. Never "nobody".
        return self._holders.far_socket(self.pid, tuple(map(_link, one.far)), link) or UNKNOWN

    def _sort_others(self) -> None:
        for one in self._listing.others:
            if self._chosen is not None and not self._chosen(one.fd):
                continue
            group = self.grouper.add(one.type, name_of(one.type, one.link), one.fd, one.mode)
            if one.allocated is not None and one.key is not None:
                group.segments[one.key] = one.allocated
