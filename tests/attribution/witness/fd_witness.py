"""The second, slow method: notices by looking that something new is open, and notes what runs at that moment.

It knows no list of functions. At every call and return of every function, of Python and of C
(`sys.setprofile`), it looks whether the process has another number of FDs, other mappings, or /dev/shm
other entries than before; then it compares what is open with what was. So it finds whatever is made
between two such events, and knows the stack of that moment to the line where a C function has just
returned (`exact`), else to the function: what a type makes when it is called has no event of its own.

With other threads about, a count may stay the same while one thing goes and another comes, so then it
looks at everything after each C function. Which of several threads made the thing cannot always be
known: the stacks of the others are noted too.

While torch is imported (two million events a process) it does not look, but once at the end.
`ATTRIBUTION_THOROUGH=1` has it look there as well.

Each process writes `PID-STARTED.jsonl` in `$ATTRIBUTION_LOG` through a mapping, which holds a descriptor
of that file, and keeps one of /proc/self/statm, whose number is in the log: these two do not count.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import fcntl
import json
import mmap
import os
import posix
import sys
import threading
import time
from types import FrameType
from typing import Any

LOG_SIZE = 64 << 20
_MOST_FRAMES = 40
_SKIMMED = "/torch/__init__.py"
_HIGH = 700
_SHARED_MEMORY = ("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV")
_AFTER_C = ("c_return", "c_exception")

# The tracer must not note what the witness opens: so not what it has put in its place.
_open = getattr(posix.open, "__wrapped__", posix.open)

Key = tuple[int, int]
Mapping = tuple[int, int, int]
Place = tuple[str, int, str]


class Log:
    """One process's file: a line of JSON for each thing that came, and for errors of the witness itself."""

    def __init__(self, directory: str) -> None:
        name = f"{os.getpid()}-{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}.jsonl"
        fd = _open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            # Sparse: only what is written takes room.
            os.ftruncate(fd, LOG_SIZE)
            self._memory = mmap.mmap(fd, LOG_SIZE)
        finally:
            os.close(fd)
        self._at = 0

    def write(self, record: dict[str, Any]) -> None:
        line = json.dumps(record).encode() + b"\n"
        self._memory[self._at : self._at + len(line)] = line
        self._at += len(line)


class Witness:
    """What was open at the last look, and who is told of what is new."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._shared: dict[Mapping, str] = {}
        self._inodes: set[Key] = set()
        self._fds: dict[int, Key] = {}
        self._forking = True
        self._here()

    def _here(self) -> None:
        """Begin in this process, at its start or after a fork."""
        self._lock = threading.RLock()
        self._log = Log(self._directory)
        self._open_statm()
        self._remember(self._list_fds(), self._list_shared(), self._quick_look())
        self._log.write({"event": "begin", "pid": os.getpid(), "parent": os.getppid(), "statm": self._statm})
        self._forking = False

    def _open_statm(self) -> None:
        low = _open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        # Out of the way: the program's own FDs keep the numbers that they would have.
        self._statm = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _HIGH)
        os.close(low)

    def start(self) -> None:
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._in_child
        )
        threading.setprofile(self.look)
        sys.setprofile(self.look)
        # Registered first, so called last: while the interpreter is taken apart there is nothing to be seen.
        atexit.register(sys.setprofile, None)

    def _before_fork(self) -> None:
        # Nobody may be listing FDs at that moment: the child would have the descriptor for ever.
        self._lock.acquire()
        frame = sys._getframe(1)
        if self._suspicious("call"):
            self._compare(frame, "fork", None)
        # What runs between here and the child's own beginning still has the parent's log.
        self._forking = True

    def _after_fork(self) -> None:
        self._forking = False
        self._lock.release()

    def _in_child(self) -> None:
        os.close(self._statm)
        self._here()

    def look(self, frame: FrameType, event: str, argument: Any) -> None:
        """The profile function."""
        try:
            code = frame.f_code
            with self._lock:
                if not self._forking and self._suspicious(event):
                    self._compare(frame.f_back if event == "call" else frame, event, argument)
            if event == "call" and code.co_name == "<module>" and code.co_filename.endswith(_SKIMMED):
                self._skim(frame)
        except Exception as error:  # noqa: BLE001 - the program must not notice; the test looks for it
            self._log.write({"event": "error", "text": f"{type(error).__name__}: {error}"})

    def _skim(self, module: FrameType) -> None:
        """Look no more until this frame has returned."""
        if os.environ.get("ATTRIBUTION_THOROUGH"):
            return

        def until(frame: FrameType, event: str, argument: Any) -> None:
            if frame is module and event == "return":
                sys.setprofile(self.look)
                with self._lock:
                    self._compare(frame, "skimmed", None)

        sys.setprofile(until)

    def _suspicious(self, event: str) -> bool:
        if event in _AFTER_C and _thread._count() and len(sys._current_frames()) > 1:
            return True
        # All but the witness's own. Linux before 6.2 does not say, then it is -1, which no list has.
        count = os.stat("/proc/self/fd").st_size - 1
        return count != len(self._fds) or self._quick_look() != self._quick

    def _quick_look(self) -> tuple[int, bytes]:
        """Changes whenever something comes to /dev/shm or goes, or memory is mapped."""
        return os.stat("/dev/shm").st_mtime_ns, self._size()

    def _size(self) -> bytes:
        """Pages of address space: another number where something was mapped."""
        try:
            return os.pread(self._statm, 16, 0).split()[0]
        except OSError:
            # The program has closed what it did not know.
            self._open_statm()
            return os.pread(self._statm, 16, 0).split()[0]

    def _compare(self, frame: FrameType | None, event: str, argument: Any) -> None:
        fds = self._list_fds()
        new = {fd: key for fd, key in fds.items() if self._fds.get(fd) != key}
        quick = self._quick_look()
        shared = self._list_shared() if quick != self._quick else self._shared
        came = [place for place in shared if place not in self._shared]
        if new or came:
            self._note(new, [(place, shared[place]) for place in came], (frame, event, argument))
        self._remember(fds, shared, quick)

    def _remember(self, fds: dict[int, Key], shared: dict[Mapping, str], quick: tuple[int, bytes]) -> None:
        self._fds, self._shared, self._quick = fds, shared, quick
        self._inodes = set(fds.values()) | {mapping[:2] for mapping in shared}

    def _note(
        self,
        new: dict[int, Key],
        came: list[tuple[Mapping, str]],
        at: tuple[FrameType | None, str, Any],
    ) -> None:
        frame, event, argument = at
        seen = set(self._inodes)
        own = _thread.get_ident()
        common = {
            "event": event,
            "function": name_of(argument) if event in _AFTER_C else None,
            "exact": event in _AFTER_C,
            "stack": stack(frame),
            "others": [stack(f) for thread, f in sys._current_frames().items() if thread != own],
            "time": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        }
        for fd, key in sorted(new.items()):
            try:
                target = os.readlink(f"/proc/self/fd/{fd}")
            except OSError:
                continue  # Another thread has closed it already.
            anonymous = target.startswith("anon_inode:") or target[0] == "/"
            # Another FD of what is open already: a duplicate, or received again.
            known = key in seen and (is_segment(target) or not anonymous)
            seen.add(key)
            self._log.write(
                {**common, "target": target, "key": key, "fd": fd, "id": event_id(fd, target), "known": known}
            )
        for place, target in came:
            semaphore = target.startswith("/dev/shm/sem.")
            if place[:2] in seen and not semaphore:
                continue
            seen.add(place[:2])
            self._log.write({**common, "target": target, "key": place[:2], "address": place[2]})

    def _list_fds(self) -> dict[int, Key]:
        found = {}
        for name in os.listdir("/proc/self/fd"):
            fd = int(name)
            if fd != self._statm:
                try:
                    info = os.fstat(fd)
                except OSError:
                    continue  # That of the listing itself.
                found[fd] = (info.st_dev, info.st_ino)
        return found

    def _list_shared(self) -> dict[Mapping, str]:
        """(device, inode, address) of mapped shared memory; the first mapping of each, of semaphores all."""
        found: dict[Mapping, str] = {}
        known: set[Key] = set()
        for line in read("/proc/self/maps").split(b"\n"):
            words = line.split(None, 5)
            if len(words) == 6 and words[1].endswith(b"s"):
                target = os.fsdecode(words[5])
                major, _, minor = words[3].partition(b":")
                key = (os.makedev(int(major, 16), int(minor, 16)), int(words[4]))
                if target.startswith(_SHARED_MEMORY) and (key not in known or "/sem." in target):
                    known.add(key)
                    found[(*key, int(words[0].split(b"-")[0], 16))] = target
        return found


def is_segment(target: str) -> bool:
    return target.startswith(("/dev/shm/", "/memfd:"))


def event_id(fd: int, target: str) -> int | None:
    """The kernel's number of an eventfd (proc_pid_fdinfo(5))."""
    if target != "anon_inode:[eventfd]":
        return None
    lines = read(f"/proc/self/fdinfo/{fd}").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(b"eventfd-id:")), None)


def read(path: str) -> bytes:
    """A whole file."""
    fd = _open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while more := posix.read(fd, 1 << 20):
            text += more
        return text
    finally:
        posix.close(fd)


def name_of(function: Any) -> str:
    """A C function's module and name; of a method the module of its type."""
    module = getattr(function, "__module__", None)
    if not isinstance(module, str):
        holder = getattr(function, "__self__", None)
        owner = getattr(function, "__objclass__", holder if isinstance(holder, type) else type(holder))
        # Types of extensions that name no module say "builtins" too.
        builtin = getattr(builtins, owner.__name__, None) is owner
        module = owner.__module__ if builtin or owner.__module__ != "builtins" else "?"
    return f"{module}.{getattr(function, '__qualname__', '?')}"


def stack(frame: FrameType | None) -> list[Place]:
    """(file, line, function), innermost first."""
    places: list[Place] = []
    while frame is not None and len(places) < _MOST_FRAMES:
        code = frame.f_code
        places.append((code.co_filename, frame.f_lineno or 0, getattr(code, "co_qualname", code.co_name)))
        frame = frame.f_back
    return places


def begin() -> None:
    """Begin, if a test has asked for it."""
    directory = os.environ.get("ATTRIBUTION_LOG")
    if directory:
        Witness(directory).start()
