"""The call-site tables of a live process: by its memory map, not by a naming rule.

So they are found in another mount namespace or PID namespace too, and when they were deleted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from amidiag.attach.trace_source import BadTableError, NoTableError
from amidiag.attach.trace_table import Table, read_for
from amidiag.model import Identity
from amidiag.procfs.errors import ReaderExhausted, explain
from amidiag.procfs.processes import effective_uid, path_from_here, read_file
from amidiag.procfs.tasks import namespace_pids
from amidiag.target.private_files import runtime_dir
from amidiag.target.trace_layout import SUFFIX

_MAPPED = SUFFIX.encode()
_DELETED = b" (deleted)"

Found = Table | str | None
"""A table, or why it is not believed or cannot be read, or None for another sort of file."""


def find_tables(identity: Identity) -> tuple[Table, ...]:
    """The tables that a live process has mapped, and those that it left under its name before an exec.

    What is not believed, damaged or not to be read is left out: `TableFinder` says what that was.
    Raises ProcessGone, NoPermission, ReaderExhausted.
    """
    return TableFinder().find(identity)


class TableFinder:
    """Finds the tables of many processes and reads each file once.

    `refused`: why tables of a process, by its PID, are not believed or cannot be read.
    """

    def __init__(self) -> None:
        self.refused: dict[int, list[str]] = {}
        # By (device, inode): a forked child has its parent's file mapped.
        self._read: dict[tuple[int, int], Found] = {}

    def find(self, identity: Identity) -> tuple[Table, ...]:
        """As `find_tables`. Raises ProcessGone, NoPermission, ReaderExhausted."""
        pid = identity.pid
        owner = effective_uid(pid)
        mapped = _mapped_tables(pid)
        found = [self._table(path, way, owner) for path, way in mapped.items()]
        directories = {os.path.dirname(path) for path in mapped} or {runtime_dir()}
        found += self._left_behind(identity, directories, owner)
        self.refused[pid] = [why for why in found if isinstance(why, str)]
        tables = {id(t): t for t in found if isinstance(t, Table) and t.boot_id == identity.boot_id}
        return tuple(tables.values())

    def _left_behind(self, identity: Identity, directories: Collection[str], owner: int) -> list[Found]:
        """Those that bear the name of the process: it may have become another program by exec since."""
        own = namespace_pids(identity.pid)[-1], identity.start_ticks
        names = re.compile(rf"{own[0]}-{own[1]}(-\d+)?{re.escape(SUFFIX)}")
        found: list[Found] = []
        for directory in directories:
            way = path_from_here(identity.pid, directory)
            try:
                entries = [name for name in os.listdir(way) if names.fullmatch(name)]
            except OSError as error:
                _unless_exhausted(error)
                continue  # No such directory, or not ours to list: then there is nothing to find.
            found += [self._table(f"{directory}/{name}", f"{way}/{name}", owner) for name in entries]
        return [t for t in found if not isinstance(t, Table) or (t.pid, t.start_ticks) == own]

    def _table(self, path: str, way: str, owner: int) -> Found:
        deleted = _is_deleted(way)
        try:
            info = os.stat(way, follow_symlinks=deleted)
            key = info.st_dev, info.st_ino
            if key not in self._read:
                self._read[key] = _read(path, way, owner)
            return self._read[key]
        except OSError as error:
            _unless_exhausted(error)
            why = (
                "it was removed, and only root may still read it" if deleted else error.strerror or str(error)
            )
            return f"{path} cannot be read: {why}"


def _read(path: str, way: str, owner: int) -> Found:
    try:
        return read_for(path, owner, way=way)
    except NoTableError:
        return None  # The program's own file with such a name.
    except BadTableError as error:
        return str(error)


def _mapped_tables(pid: int) -> dict[str, str]:
    """Each table in the memory map, and by which path to open it from here. Raises ProcessGone, NoPermission."""
    found: dict[str, str] = {}
    for line in read_file(pid, "maps", "the memory map").splitlines():
        if not line.endswith((_MAPPED, _MAPPED + _DELETED)):
            continue
        span, name = line.split(maxsplit=5)[::5]
        path = os.fsdecode(name.removesuffix(_DELETED))
        if path not in found:
            # What is deleted is still there behind the mapping.
            deleted = name.endswith(_DELETED)
            found[path] = f"/proc/{pid}/map_files/{_plain(span)}" if deleted else path_from_here(pid, path)
    return found


def _plain(span: bytes) -> str:
    # `maps` pads addresses with zeros, `map_files` does not (proc_pid_map_files(5)).
    start, _, end = span.partition(b"-")
    return f"{int(start, 16):x}-{int(end, 16):x}"


def _is_deleted(way: str) -> bool:
    return "/map_files/" in way


def _unless_exhausted(error: OSError) -> None:
    known = explain(error, None, None, "the call-site table")
    if isinstance(known, ReaderExhausted):
        raise known from error
