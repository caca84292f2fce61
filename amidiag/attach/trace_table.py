"""One call-site table, read whole."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Collection
from dataclasses import dataclass

from amidiag.attach.region_reading import read_region
from amidiag.attach.trace_region import Region
from amidiag.attach.trace_source import BadTableError, TableFile
from amidiag.procfs.identity import boot_id


@dataclass(eq=False)
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

    By path alone only a file of this reader's own user, or of root, is believed, in a directory into
    which nobody else may put files.

    Raises:
        BadTableError: not believed, another version, cut off, damaged.
        OSError: it cannot be opened or read.
    """
    if owner is not None:
        return read_for(path, owner)
    owners = {os.geteuid(), 0}
    _check_directory(path, owners)
    return _read(TableFile(path, owners))


def read_for(path: str, owner: int, *, way: str | None = None) -> Table:
    """Read the table of a live process of the user `owner`, opening `way` in the place of `path`. Raises as above."""
    return _read(TableFile(path, {owner, 0}, way=way))


def _read(opened: TableFile) -> Table:
    with opened as file:
        header = file.header
        # Clocks may have been set since: of this boot the shift is known better than when the file was made.
        realtime = realtime_shift() if header.boot_id == boot_id() else None
        found = [read_region(file, number, realtime) for number in range(header.regions)]
    return Table(
        path=file.path,
        pid=header.pid,
        start_ticks=header.start_ticks,
        boot_id=header.boot_id,
        program=header.program,
        regions=tuple(region for region in found if region is not None),
        untraced_forks=header.untraced_forks,
    )


def realtime_shift() -> int:
    """CLOCK_REALTIME minus CLOCK_BOOTTIME, in nanoseconds, now."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _check_directory(path: str, owners: Collection[int]) -> None:
    directory = os.path.dirname(os.path.abspath(path))
    info = os.lstat(directory)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in owners or info.st_mode & 0o022:
        raise BadTableError(
            f"{path} is not believed: others than its owner may put files into {directory}. "
            "Copy it into a directory of your own."
        )
