"""What the processes of a tree have open, read from /proc with nothing of amidiag: the list that must be whole."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_SHARED_MEMORY = ("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV")
KINDS = ("pipe", "socket", "eventfd", "segment", "semaphore")
"""Those that issue 3 names; semaphores are segments."""


@dataclass(frozen=True)
class Thing:
    """One FD, or one mapping of shared memory that no FD of the process holds; of semaphores each mapping."""

    pid: int
    parent: int
    kind: str
    target: str
    key: tuple[int, int]
    fd: int | None = None
    address: int | None = None
    event_id: int | None = None

    @property
    def by_fd(self) -> bool:
        """Whether many descriptors may share its inode."""
        return self.kind not in ("pipe", "socket", "segment", "semaphore")


def tree(root: int) -> dict[int, int]:
    """The parent of each living process at and below `root`."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                if words[0] != "Z":
                    parents[int(name)] = int(words[1])
    found = {root: parents[root]}
    for _ in range(64):
        found |= {pid: parent for pid, parent in parents.items() if parent in found}
    return found


def list_things(pid: int, parent: int) -> list[Thing]:
    """All that this process has open."""
    held = _fds(pid, parent)
    keys = {thing.key for thing in held if thing.kind == "segment"}
    return held + _mapped(pid, parent, keys)


def _fds(pid: int, parent: int) -> list[Thing]:
    found = []
    for name in sorted(os.listdir(f"/proc/{pid}/fd"), key=int):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            info = os.stat(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            continue
        kind = kind_of(target)
        event = _event_id(pid, name) if kind == "eventfd" else None
        found.append(Thing(pid, parent, kind, target, (info.st_dev, info.st_ino), int(name), None, event))
    return found


def kind_of(target: str) -> str:
    """A word for where a link of `/proc/PID/fd` leads."""
    if target.startswith(("/dev/shm/", "/memfd:")):
        return "segment"
    if target.startswith("anon_inode:"):
        return target[11:].strip("[]")
    return "file" if target.startswith("/") else target.split(":", maxsplit=1)[0]


def _event_id(pid: int, fd: str) -> int | None:
    lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("eventfd-id:")), None)


def _mapped(pid: int, parent: int, held: set[tuple[int, int]]) -> list[Thing]:
    found, known = [], set(held)
    for line in Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines():
        words = line.split(None, 5)
        if len(words) < 6 or not words[1].endswith("s") or not words[5].startswith(_SHARED_MEMORY):
            continue
        major, _, minor = words[3].partition(":")
        key = (os.makedev(int(major, 16), int(minor, 16)), int(words[4]))
        kind = "semaphore" if words[5].startswith("/dev/shm/sem.") else "segment"
        if kind == "semaphore" or key not in known:
            known.add(key)
            address = int(words[0].split("-")[0], 16)
            found.append(Thing(pid, parent, kind, words[5], key, None, address))
    return found


def wait_until_quiet(root: int, seconds: float = 60.0) -> None:
    """Return once nothing in the tree runs, and nothing is opened, closed, started or ended. TimeoutError."""
    deadline = time.monotonic() + seconds
    before, same = None, 0
    while time.monotonic() < deadline:
        now = _state(root)
        same = same + 1 if now == before else 0
        before = now
        if same >= 3:
            return
        time.sleep(0.1)
    raise TimeoutError(f"the processes of {root} do not come to rest")


def _state(root: int) -> object:
    parents = tree(root)
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return parents, [(_ticks(pid), list_things(pid, parent)) for pid, parent in sorted(parents.items())]
    return object()


def _ticks(pid: int) -> int:
    """Time that it has run, in clock ticks."""
    words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(words[11]) + int(words[12])
