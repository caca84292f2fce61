"""What `amidiag shm` looks at: a process, its tree and its `/dev/shm`; or the machine's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from amidiag.model import DevShm, Identity, Observation, ProcessObservation, TreeUse
from amidiag.procfs.errors import CannotObserve, ProcessGone
from amidiag.procfs.shm import dev_shm
from amidiag.procfs.shm_directory import open_shm
from amidiag.procfs.shm_orphans import OrphanReport, find_orphans
from amidiag.procfs.shm_tree import TreeSegments, read_segments
from amidiag.procfs.sysv import same_ipc_namespace


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen. `directory`: a descriptor of the `/dev/shm` in question; None where it cannot be opened."""

    processes: tuple[ProcessObservation, ...]
    tree: TreeUse
    segments: TreeSegments
    orphans: OrphanReport
    directory: int | None
    notes: tuple[str, ...]


@contextmanager
def look(pid: int | None, *, tree: bool, older_than: float, needed: bool) -> Iterator[Look]:
    """Look at process `pid`, or at the machine. Raises CannotObserve, also if `/dev/shm` is `needed` and not there.

    `older_than`: seconds.
    """
    observation = None if pid is None else _observe(pid)
    root = None if observation is None else _identities(observation)[0][0]
    notes: list[str] = [] if observation is None else list(observation.notes)
    with ExitStack() as stack:
        directory = None
        try:
            directory = stack.enter_context(open_shm(root))
        except ProcessGone:
            raise
        except CannotObserve as error:
            if needed:
                raise
            notes.append(str(error))
        sysv = root is None or same_ipc_namespace(root.pid)
        if not sysv:
            way = f"`nsenter --target {pid} --ipc amidiag shm` looks there, as root."
            notes.append(f"orphaned SysV segments of its IPC namespace are not looked for: {way}")
        orphans = find_orphans(directory, sysv=sysv, older_than=older_than)
        names = None if directory is None else tuple(orphan.name for orphan in orphans.orphans)
        if observation is None:
            use = TreeUse(None, None, replace(dev_shm(os.getpid()), orphans=names))
            yield Look((), use, TreeSegments((), None, (), ()), orphans, directory, tuple(notes))
            return
        shown = len(observation.processes) if tree else 1
        segments = read_segments(_identities(observation)[:shown], directory)
        use = replace(observation.tree, dev_shm=_with(observation.tree.dev_shm, names))
        yield Look(observation.processes[:shown], use, segments, orphans, directory, tuple(notes))


def _observe(pid: int) -> Observation:
    from amidiag.attach.status import StatusReader
    from amidiag.procfs.observe import observe_tree

    return observe_tree(pid, peers=False, status_reader=StatusReader())


def _identities(observation: Observation) -> list[tuple[Identity, str]]:
    return [(Identity(observation.boot_id, p.pid, p.start_ticks), p.name) for p in observation.processes]


def _with(seen: DevShm | None, names: tuple[str, ...] | None) -> DevShm | None:
    return None if seen is None else replace(seen, orphans=names)
