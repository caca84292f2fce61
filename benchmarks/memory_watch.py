"""Peaks of memory of a process tree, seen from outside: shared memory counted once, by (device, inode).

Independent of the worker's own `tree_usage`: this is what that and the memory model are held against.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """Bytes. `loaders`: private memory of the loader processes together; `others`: of fork server and tracker."""

    parent: int = 0
    loaders: int = 0
    others: int = 0
    dev_shm: int = 0
    total: int = 0

    def highest(self, other: Seen) -> Seen:
        """The higher of each figure."""
        return Seen(*(max(a, b) for a, b in zip(self.figures(), other.figures(), strict=True)))

    def figures(self) -> tuple[int, int, int, int, int]:
        """All figures, in order."""
        return self.parent, self.loaders, self.others, self.dev_shm, self.total


class Watch:
    """Looks at a tree every few milliseconds until the end of the block."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._lock = threading.Lock()
        self._now = Seen()
        self._peak = Seen()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def now(self) -> Seen:
        """The last look."""
        with self._lock:
            return self._now

    @property
    def peak(self) -> Seen:
        """The highest of each figure; `total` is the highest sum at one instant."""
        with self._lock:
            return self._peak

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._peak = Seen()

    def loader_ticks(self) -> int:
        """CPU time of the loader processes and of this tree's helpers, in clock ticks."""
        return sum(cpu_ticks(pid) for pid, _ in family(self._pid) if pid != self._pid)

    def _run(self) -> None:
        tree: list[tuple[int, str]] = []
        for turn in range(1 << 62):
            if self._stop.wait(INTERVAL_S):
                return
            if turn % 20 == 0:
                tree = family(self._pid)
            seen = look(tree, self._pid)
            with self._lock:
                self._now, self._peak = seen, self._peak.highest(seen)


def family(root: int) -> list[tuple[int, str]]:
    """`root` and its descendants, with their names."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            parents[int(entry.name)] = (int(rest.split()[1]), name)
    tree = [root]
    for member in tree:
        tree += [pid for pid, (parent, _) in parents.items() if parent == member]
    return [(pid, parents[pid][1]) for pid in tree if pid in parents]


def look(tree: list[tuple[int, str]], root: int) -> Seen:
    """What the processes use now."""
    private = {"parent": 0, "loader": 0, "other": 0}
    segments: dict[tuple[int, int], int] = {}
    for pid, name in tree:
        role = "parent" if pid == root else "loader" if name.startswith("pt_data_worker") else "other"
        try:
            private[role] += anonymous(pid)
            held_segments(pid, segments)
        except OSError:
            continue  # It has ended.
    shm = sum(segments.values())
    return Seen(private["parent"], private["loader"], private["other"], shm, sum(private.values()) + shm)


def anonymous(pid: int) -> int:
    """RssAnon of a process, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_ticks(pid: int) -> int:
    """User and system time of a process, 0 once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def held_segments(pid: int, found: dict[tuple[int, int], int]) -> None:
    """Add what a process holds open in /dev/shm, by (device, inode), with the bytes of its blocks."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(fd.readlink()).startswith("/dev/shm/"):
                stat = fd.stat()
                found[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
        except FileNotFoundError:
            continue  # Closed meanwhile.


def settled(watch: Watch, expected: int, *, still_s: float = 0.4, limit_s: float = 60.0) -> bool:
    """Wait until /dev/shm has `expected` bytes and the loader processes do nothing; False where that never came."""
    end = time.monotonic() + limit_s
    since, before = time.monotonic(), watch.loader_ticks()
    while time.monotonic() < end:
        time.sleep(0.03)
        ticks = watch.loader_ticks()
        if ticks != before or watch.now.dev_shm < expected:
            since, before = time.monotonic(), ticks
        elif time.monotonic() - since > still_s:
            return True
    return False
