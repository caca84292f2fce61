"""A memory cgroup with a limit, of version 1 or 2, whichever this machine has."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class NoCgroupError(Exception):
    """None can be made; the text says why."""


@dataclass(frozen=True)
class MemoryCgroup:
    """One that was made. Sizes in bytes; all of its kinds of memory are limited together, page cache included."""

    directory: Path
    version: int

    @property
    def members(self) -> Path:
        """The file into which a process writes its PID to get in."""
        return self.directory / "cgroup.procs"

    @property
    def peak(self) -> int | None:
        """The most that was ever charged; None before Linux 5.19 with version 2."""
        file = self.directory / ("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")
        return int(file.read_text()) if file.exists() else None

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed at the limit."""
        file = self.directory / ("memory.oom_control" if self.version == 1 else "memory.events")
        words = dict(line.split() for line in file.read_text().splitlines())
        return int(words.get("oom_kill", 0))


@contextmanager
def memory_cgroup(limit: int) -> Iterator[MemoryCgroup]:
    """Make one with a limit in bytes; it is removed at the end, when its processes are.

    Raises:
        NoCgroupError: this machine or this user cannot make one.
    """
    made = _make(limit)
    try:
        yield made
    finally:
        # The last process may still be on its way out.
        for _ in range(100):
            with contextlib.suppress(OSError):
                made.directory.rmdir()
                break
            time.sleep(0.1)


def _make(limit: int) -> MemoryCgroup:
    name = f"amidiag-{os.getpid()}"
    why = []
    for version, parent, file in (
        (1, _ROOT / "memory", "memory.limit_in_bytes"),
        (2, _ROOT, "memory.max"),
    ):
        directory = parent / name
        try:
            if version == 2:
                (parent / "cgroup.subtree_control").write_text("+memory")
            directory.mkdir()
        except OSError as e:
            why.append(f"version {version}: {e.strerror} ({e.filename})")
            continue
        try:
            (directory / file).write_text(str(limit))
        except OSError as e:
            directory.rmdir()
            why.append(f"version {version}: {e.strerror} ({e.filename})")
            continue
        return MemoryCgroup(directory, version)
    raise NoCgroupError("; ".join(why))
