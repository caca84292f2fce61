"""The FDs of a process as a person speaks of them: 65,501 orphaned pipe ends are one thing, not 65,501."""

from __future__ import annotations

from collections import Counter

from amidiag.model import FdGroup
from amidiag.procfs.fds import READ, WRITE
from amidiag.procfs.file_types import DELETED
from amidiag.procfs.segments import MEMFD, SHM_DIRECTORY

FEW = 8
"""More names than these of one sort are one line: `/data/images/*`."""
_FDS_SHOWN = 10
# Of as many FDs of one name: what looks like a leak first.
_FIRST = ("nobody", "unknown", "tree", "other", "self", None)

# Many files that are one thing to a person.
_FAMILIES = ("/dev/nvidia", SHM_DIRECTORY + "torch_", SHM_DIRECTORY + "psm_", SHM_DIRECTORY + "sem.")
_MODES = {READ: "r", WRITE: "w", READ | WRITE: "rw", 0: "path"}

Name = tuple[str, str]
"""What a group is called, and what it is called together with others of its sort where those are many."""


class _Group:
    """What is known of a group while it grows."""

    __slots__ = ("count", "fds", "inherited", "modes", "peers", "segments")

    def __init__(self) -> None:
        self.count = 0
        self.inherited = 0
        self.modes: set[int | None] = set()
        self.fds: list[str] = []
        self.peers: Counter[int] = Counter()
        self.segments: dict[tuple[int, int], int] = {}

    def show(self, fds: list[str]) -> None:
        self.fds = sorted(self.fds + fds[:_FDS_SHOWN], key=int)[:_FDS_SHOWN]

    def absorb(self, other: _Group) -> None:
        self.count += other.count
        self.inherited += other.inherited
        self.modes |= other.modes
        self.show(other.fds)
        self.peers += other.peers
        self.segments |= other.segments


class Grouper:
    """Takes the FDs of one process one by one, and gives them back as groups."""

    def __init__(self) -> None:
        # By type, name, name among many, and who holds the other end.
        self._groups: dict[tuple[str, str, str, str | None], _Group] = {}

    def add(
        self,
        kind: str,
        name: Name,
        fd: str,
        mode: int,
        *,
        peer: str | None = None,
        holder: int = 0,
        inherited: bool = False,
    ) -> _Group:
        """One FD; `holder` is the PID of one who holds the other end, 0 where that is no other process."""
        key = (kind, *name, peer)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        group.count += 1
        group.modes.add(mode)
        if len(group.fds) < _FDS_SHOWN:
            group.fds.append(fd)
        if inherited:
            group.inherited += 1
        if holder:
            group.peers[holder] += 1
        return group

    def add_many(self, kind: str, name: Name, fds: list[str], mode: int | None, *, peer: str | None) -> None:
        """As many FDs that have all this in common, by number; `mode` None where it was not read."""
        if fds:
            group = self._groups.setdefault((kind, *name, peer), _Group())
            group.count += len(fds)
            group.modes.add(mode)
            group.show(fds)

    def groups(self) -> tuple[FdGroup, ...]:
        """The groups, most FDs first."""
        names = Counter((kind, many, peer) for kind, _, many, peer in self._groups)
        merged: dict[tuple[str, str, str | None], _Group] = {}
        for (kind, one, many, peer), group in self._groups.items():
            what = many if names[kind, many, peer] > FEW else one
            merged.setdefault((kind, what, peer), _Group()).absorb(group)
        found = [_finished(*key, group) for key, group in merged.items()]
        return tuple(sorted(found, key=_rank))


def _rank(group: FdGroup) -> tuple[int, str, str, int]:
    return -group.count, group.type, group.what, _FIRST.index(group.peer)


def _finished(kind: str, what: str, peer: str | None, group: _Group) -> FdGroup:
    return FdGroup(
        type=kind,
        what=what,
        mode=",".join(word for mode, word in _MODES.items() if mode in group.modes) or None,
        count=group.count,
        peer=peer,
        peer_processes={str(pid): number for pid, number in group.peers.most_common()},
        inherited=group.inherited,
        bytes=sum(group.segments.values()) if group.segments else None,
        fds=tuple(map(int, group.fds)),
    )


def name_of(kind: str, link: str) -> Name:
    """What an FD with this link is called, one that is neither pipe nor socket."""
    if link[0] != "/":
        return _name_without_path(kind, link)
    for family in _FAMILIES:
        if link.startswith(family):
            return family + "*", family + "*"
    if link.startswith(MEMFD):
        name = "memfd:" + link.removeprefix(MEMFD).removesuffix(DELETED)
        return name, "memfd:*"
    # Where a file was unlinked is worth knowing; that of shared memory every one is, as a rule, is not.
    path = link.removesuffix(DELETED) if kind == "shm" else link
    directory = path.rpartition("/")[0]
    gone = DELETED if path.endswith(DELETED) else ""
    return path, f"{directory}/*{gone}"


def _name_without_path(kind: str, link: str) -> Name:
    if kind == "pidfd":
        return link, kind
    head, _, tail = link.partition(":")
    if head == "anon_inode":
        name = tail.strip("[]")
        return name, name
    if kind == "namespace":
        return link, "namespaces"
    return head, head
