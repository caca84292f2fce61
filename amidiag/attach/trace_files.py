"""Call-site tables as files: found by the process that writes them, and read whole."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass

from amidiag.attach.old_tables import clean, find_dead, list_tables
from amidiag.attach.trace_region import Frame, Made, Region, read_region
from amidiag.attach.trace_source import BadTableError, NoTableError, TableFile
from amidiag.model import Identity
from amidiag.procfs.errors import ReaderExhausted, explain
from amidiag.procfs.identity import boot_id
from amidiag.procfs.processes import read_file
from amidiag.procfs.tasks import namespace_pids
from amidiag.target.private_files import runtime_dir
from amidiag.target.trace_layout import SUFFIX

_MAPPED = SUFFIX.encode()
_DELETED = b" (deleted)"


@dataclass
class Table:
    """A table as it was when it was read.

    Attributes:
        pid, start_ticks, boot_id: the process that made it, as it calls itself.
        program: the script or module that it ran.
        regions: those that a process has or had. `untraced_forks`: children for which none was left.
    """

    path: str
    pid: int
    start_ticks: int
    boot_id: str
    program: str
    regions: tuple[Region, ...]
    untraced_forks: int


def read_table(path: str, *, owner: int | None = None) -> Table:
    """Read a table. `owner`: the uid of the process that it is believed for; root's files are too.

    By path alone only a file of this reader's own user, or of root, is believed, in a directory that is
    theirs alone.

    Raises:
        BadTableError: not believed, another version, cut off, damaged.
        OSError: it cannot be opened or read.
    """
    if owner is not None:
        return _read(path, {owner, 0})
    owners = {os.geteuid(), 0}
    _check_directory(path, owners)
    return _read(path, owners)


def _read(path: str, owners: Collection[int], *, follow: bool = False, shown: str | None = None) -> Table:
    with TableFile(path, owners, follow=follow) as file:
        header = file.header
        # Clocks that were set since: of this boot the shift is known better than when the file was made.
        realtime = realtime_shift() if header.boot_id == boot_id() else None
        found = [read_region(file, number, realtime) for number in range(header.regions)]
    return Table(
        path=shown or path,
        pid=header.pid,
        start_ticks=header.start_ticks,
        boot_id=header.boot_id,
        program=header.program,
        regions=tuple(region for region in found if region is not None),
        untraced_forks=header.untraced_forks,
    )


def _check_directory(path: str, owners: Collection[int]) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in owners or info.st_mode & 0o022:
        raise BadTableError(
            f"{path} is not believed: others than its owner may put files into {directory}. "
            "Copy it into a directory of your own."
        )


def find_tables(identity: Identity) -> tuple[Table, ...]:
    """The tables that a live process has mapped, and those that it left under its name before an exec.

    What is not believed, damaged or not to be read is left out: `TableFinder` says what that was.
    Raises ProcessGone, NoPermission, ReaderExhausted.
    """
    return TableFinder().find(identity)


class TableFinder:
    """Finds the tables of many processes and reads each file once.

    `refused`: why tables that were found are not believed or could not be read, by path.
    """

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}
        # By (device, inode): a forked child has its parent's file mapped.
        self._read: dict[tuple[int, int], Table | None] = {}

    def find(self, identity: Identity) -> tuple[Table, ...]:
        """As `find_tables`. Raises ProcessGone, NoPermission, ReaderExhausted."""
        pid = identity.pid
        owner = user_of(pid)
        mapped = _mapped_tables(pid)
        tables = [self._table(way, path, owner) for way, path in mapped]
        directories = {
            os.path.dirname(way) for way, path in mapped if not way.startswith(f"/proc/{pid}/map_files")
        }
        tables += self._left_behind(identity, directories or {_seen_by(pid, runtime_dir())}, owner)
        unique = {
            id(table): table for table in tables if table is not None and table.boot_id == identity.boot_id
        }
        return tuple(unique.values())

    def _left_behind(
        self, identity: Identity, directories: Collection[str], owner: int
    ) -> list[Table | None]:
        """Those that bear the name of the process: it may have become another program by exec since."""
        own = namespace_pids(identity.pid)[-1]
        names = re.compile(rf"{own}-{identity.start_ticks}(-\d+)?{re.escape(SUFFIX)}")
        found = []
        for directory in directories:
            try:
                entries = [name for name in os.listdir(directory) if names.fullmatch(name)]
            except OSError as error:
                _unless_exhausted(error, identity.pid)
                continue  # No such directory, or not ours to list: then there is nothing to find.
            found += [
                self._table(path, path, owner) for path in (os.path.join(directory, name) for name in entries)
            ]
        return [t for t in found if t and (t.pid, t.start_ticks) == (own, identity.start_ticks)]

    def _table(self, way: str, path: str, owner: int) -> Table | None:
        follow = way != path and "/map_files/" in way
        try:
            info = os.stat(way, follow_symlinks=follow)
            key = info.st_dev, info.st_ino
            if key not in self._read:
                self._read[key] = None
                self._read[key] = _read(way, {owner, 0}, follow=follow, shown=path)
            return self._read[key]
        except NoTableError:
            return None  # The program's own file with such a name.
        except BadTableError as error:
            self.refused[path] = str(error)
        except OSError as error:
            _unless_exhausted(error, None)
            gone = (
                "it was removed, and only root may still read it" if follow else error.strerror or str(error)
            )
            self.refused[path] = f"{path} cannot be read: {gone}"
        return None


def realtime_shift() -> int:
    """CLOCK_REALTIME minus CLOCK_BOOTTIME, in nanoseconds, now."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def user_of(pid: int) -> int:
    """The effective uid of a process: new files belong to it. Raises ProcessGone, ReaderExhausted."""
    # Not st_uid of /proc/PID: that is root's for a process that is not dumpable (proc(5)).
    _, _, rest = read_file(pid, "status", "the status").partition(b"\nUid:")
    return int(rest.split(maxsplit=2)[1])


def _mapped_tables(pid: int) -> list[tuple[str, str]]:
    """(path to open, path to show) of each table in the memory map. Raises ProcessGone, NoPermission."""
    found: dict[bytes, tuple[str, str]] = {}
    for line in read_file(pid, "maps", "the memory map").splitlines():
        if not line.endswith((_MAPPED, _MAPPED + _DELETED)):
            continue
        span, name = line.split(maxsplit=5)[::5]
        path = os.fsdecode(name.removesuffix(_DELETED))
        # What is deleted is still there behind the mapping.
        deleted = name.endswith(_DELETED)
        way = f"/proc/{pid}/map_files/{_plain(span)}" if deleted else _seen_by(pid, path)
        found.setdefault(name, (way, path))
    return list(found.values())


def _plain(span: bytes) -> str:
    # `maps` pads addresses with zeros, `map_files` does not (proc_pid_map_files(5)).
    start, _, end = span.partition(b"-")
    return f"{int(start, 16):x}-{int(end, 16):x}"


def _seen_by(pid: int, path: str) -> str:
    """The path as it leads there from here: the process may see other mounts."""
    there = f"/proc/{pid}/root{path}"
    return there if os.path.exists(there) else path


def _unless_exhausted(error: OSError, pid: int | None) -> None:
    known = explain(error, pid, None, "the call-site table")
    if isinstance(known, ReaderExhausted):
        raise known from error


__all__ = [
    "BadTableError",
    "Frame",
    "Made",
    "Region",
    "Table",
    "TableFinder",
    "clean",
    "find_dead",
    "find_tables",
    "list_tables",
    "read_table",
]
