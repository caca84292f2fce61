"""What each process of a worker's tree is there for: a guess from names, command lines and parentage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from amidiag.model import Role
from amidiag.procfs.ami_command import is_ami_worker
from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.processes import ProcStat, read_file

# torch/utils/data/_utils/worker.py names the main thread of a loader process so, since torch 2.6.
LOADER_NAME = "pt_data_worker"
# torch/bin/torch_shm_manager, of which the kernel keeps 15 bytes: unlinks the segments of the file_system strategy.
_SHM_MANAGER_NAME = "torch_shm_manag"
# What multiprocessing passes to `python -c` (popen_spawn_posix.py, forkserver.py, resource_tracker.py).
_TRACKER = "from multiprocessing.resource_tracker import main"
_FORK_SERVER = "from multiprocessing.forkserver import main"
_SPAWNED = "from multiprocessing.spawn import spawn_main"

Cmdlines = Mapping[int, tuple[str, ...]]


def guess_roles(
    tree: Sequence[ProcStat],
    cmdlines: Cmdlines,
    *,
    speaking: Collection[int] = (),
    has_torch: Callable[[int], bool] | None = None,
) -> dict[int, Role]:
    """The role of each process of `tree` (root first, parents before children), by PID.

    `speaking`: PIDs that have a status page, hence are workers. `has_torch` tells whether a PID has torch
    loaded (default: asks its memory map). Loader processes carry their own thread name; before torch 2.6,
    and while they start, any multiprocessing child of a program with torch is taken for one.
    """
    by_pid = {stat.pid: stat for stat in tree}
    roles: dict[int, Role] = {}
    for stat in tree:
        roles[stat.pid] = _first_guess(stat, by_pid, roles, cmdlines, has_torch or has_torch_mapped)
    owners = {_owner(stat, by_pid, roles) for stat in tree if roles[stat.pid] == "loader"}
    for stat in tree:
        if roles[stat.pid] == "other" and (
            stat.pid in speaking or stat.pid in owners or _is_ami_worker(stat, by_pid, cmdlines)
        ):
            roles[stat.pid] = "worker"
    return roles


def _first_guess(
    stat: ProcStat,
    by_pid: Mapping[int, ProcStat],
    roles: Mapping[int, Role],
    cmdlines: Cmdlines,
    has_torch: Callable[[int], bool],
) -> Role:
    code = " ".join(cmdlines.get(stat.pid, ()))
    if _TRACKER in code:
        return "resource_tracker"
    if stat.name == _SHM_MANAGER_NAME:
        return "shm_manager"
    if _FORK_SERVER in code and roles.get(stat.parent_pid) != "fork_server":
        return "fork_server"
    if stat.name == LOADER_NAME and roles.get(stat.parent_pid) != "loader":
        return "loader"
    owner = _owner(stat, by_pid, roles)
    is_child = _SPAWNED in code or _is_twin(stat, by_pid, cmdlines)
    if is_child and owner is not None and roles.get(owner) == "other" and has_torch(owner):
        return "loader"
    return "other"


def _owner(stat: ProcStat, by_pid: Mapping[int, ProcStat], roles: Mapping[int, Role]) -> int | None:
    """The process that asked for this one: its parent, or the parent of the fork server between them."""
    parent = by_pid.get(stat.parent_pid)
    while parent is not None and roles.get(parent.pid) == "fork_server":
        parent = by_pid.get(parent.parent_pid)
    return parent.pid if parent else None


def _is_twin(stat: ProcStat, by_pid: Mapping[int, ProcStat], cmdlines: Cmdlines) -> bool:
    """Forked and never exec'ed: it has the command line of its parent."""
    own = cmdlines.get(stat.pid)
    return bool(own) and stat.parent_pid in by_pid and own == cmdlines.get(stat.parent_pid)


def _is_ami_worker(stat: ProcStat, by_pid: Mapping[int, ProcStat], cmdlines: Cmdlines) -> bool:
    return is_ami_worker(cmdlines.get(stat.pid, ())) and not _is_twin(stat, by_pid, cmdlines)


def has_torch_mapped(pid: int) -> bool:
    """Whether libtorch is mapped into the process; False where its map may not be read."""
    try:
        return b"/libtorch" in read_file(pid, "maps", "the memory map")
    except CannotObserve:
        return False  # Ended or another user's: then the guess is "other".
