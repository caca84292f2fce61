"""What the witnesses of a run have noted: of every process of Python, what came and from where."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_things import Thing

_HERE = Path(__file__).parent
# Frames of the tracer's hooks, and of the witness in threads that wait for their turn to look.
_NOT_THE_PROGRAM = (str(_HERE.parents[1] / "amidiag" / "target"), str(_HERE / "witness"))

Place = tuple[str, int, str]


@dataclass(frozen=True)
class Came:
    """That something came to be open in a process (`pid`).

    `stacks`: innermost first, without amidiag's own frames: that of the thread which noticed it, then those
    of the other threads at that moment, one of which may have made it. `exact`: the innermost line is
    known; else it is one before it in the same function. `function`: the C function that had just returned.
    `known`: what this FD is open on was open already, by another FD.
    """

    pid: int
    target: str
    key: tuple[int, int]
    fd: int | None
    event_id: int | None
    exact: bool
    function: str | None
    stacks: tuple[tuple[Place, ...], ...]
    skimmed: bool
    known: bool
    time: int

    @property
    def by_python_code(self) -> bool:
        """Made for Python code: by a function of the standard library, or by whatever makes shared memory.

        Other descriptors that an extension opens for itself, such as libtorch's connection to its manager of
        shared memory, are no Python code's.
        """
        if not self.stacks[0]:
            return False
        module = (self.function or "").split(".")[0]
        return self.function is None or module in sys.stdlib_module_names or is_segment(self.target)


@dataclass
class Life:
    """What one process has noted, oldest first."""

    pid: int
    parent: int
    statm: int
    came: list[Came] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Truth:
    """The notes of all processes of a run.

    Raises:
        ValueError: two processes had the same PID: the run must be repeated.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = str(directory)
        self.lives: dict[int, Life] = {}
        for path in sorted(directory.glob("*.jsonl")):
            life = _read(path)
            if life.pid in self.lives:
                raise ValueError(f"two processes with PID {life.pid}")
            self.lives[life.pid] = life

    @property
    def errors(self) -> list[str]:
        """What went wrong in the witnesses themselves."""
        return [f"{life.pid}: {text}" for life in self.lives.values() for text in life.errors]

    def is_own(self, thing: Thing) -> bool:
        """Whether a witness or the tracer holds this FD for itself."""
        life = self.lives.get(thing.pid)
        statm = life is not None and thing.fd == life.statm
        return statm or thing.target.startswith(self._directory) or thing.target.endswith(".trace")

    def of(self, pid: int, thing: Thing) -> tuple[Came, ...]:
        """How the thing came to this process: every station on its way, the last one first.

        That is where this very FD was opened, received or duplicated, in the process or an ancestor, and where
        what it is open on was made.
        """
        stations: list[Came] = []
        person = self.lives.get(pid) or self.lives.get(thing.parent)
        while person is not None and (not stations or stations[-1].known):
            stations += _latest(person, thing)
            person = self.lives.get(person.parent)
        return (*stations, *(came for came in self._made(thing) if came not in stations))

    def _made(self, thing: Thing) -> tuple[Came, ...]:
        """The first of all processes to have it."""
        if thing.by_fd:
            return ()
        everyone = (came for life in self.lives.values() for came in life.came if came.key == thing.key)
        first = min(everyone, key=lambda came: came.time, default=None)
        return () if first is None else (first,)


def is_segment(target: str) -> bool:
    """Whether a link of `/proc` leads to shared memory, semaphores included."""
    return target.startswith(("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV"))


def _latest(life: Life, thing: Thing) -> tuple[Came, ...]:
    """The latest that is this FD; and unless that was the first of its kind here, what it is open on."""
    found: list[Came] = []
    for came in reversed(life.came):
        if thing.event_id is not None and came.event_id != thing.event_id:
            continue
        if came.key == thing.key and (came.fd == thing.fd or not (thing.by_fd or came.known)):
            found.append(came)
            if not came.known:
                break
    return tuple(found)


def _read(path: Path) -> Life:
    with path.open("rb") as file:
        lines = _written(file).splitlines()
    records: list[dict[str, Any]] = [json.loads(line) for line in lines]
    life = Life(records[0]["pid"], records[0]["parent"], records[0]["statm"])
    for record in records[1:]:
        if record["event"] == "error":
            life.errors.append(record["text"])
        else:
            life.came.append(_came(life.pid, record))
    return life


def _written(file: Any) -> bytes:
    """All before the first zero byte."""
    text = b""
    while b"\0" not in (more := file.read(1 << 20)) and more:
        text += more
    return text + more.partition(b"\0")[0]


def _came(pid: int, record: dict[str, Any]) -> Came:
    return Came(
        pid=pid,
        target=record["target"],
        key=tuple(record["key"]),
        fd=record.get("fd"),
        event_id=record.get("id"),
        exact=record["exact"],
        function=record["function"],
        stacks=tuple(_without_ours(stack) for stack in (record["stack"], *record["others"])),
        skimmed=record["event"] == "skimmed",
        known=record.get("known", False),
        time=record["time"],
    )


def _without_ours(stack: list[list[Any]]) -> tuple[Place, ...]:
    return tuple((file, line, name) for file, line, name in stack if not file.startswith(_NOT_THE_PROGRAM))
