"""What is open, grouped by where it was made: the rows of `trace`, and the call sites of a finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

from amidiag.attach.old_tables import iso
from amidiag.attach.own_frame import own_frame
from amidiag.attach.saved_trace import Saved, opened_since
from amidiag.attach.trace_reading import Opened, TraceReading
from amidiag.attach.trace_region import Frame, Made
from amidiag.model import CallSite, NotSeen, TraceRow

By = Literal["site", "type", "thread", "process"]
Sizes = dict[tuple[int | None, ...], int | None]
# Types of which the bytes count.
SEGMENTS = frozenset(("shm", "memfd", "sysv", "anonymous", "semaphore"))
NO_SITE = "not kept: the table of call sites was full"
"""What stands for the call site where there is none."""


def group(
    reading: TraceReading, *, by: By = "site", types: Collection[str] = (), since: Saved | None = None
) -> tuple[tuple[TraceRow, ...], NotSeen | None]:
    """Rows, most first, and what was not seen being made, None for a post-mortem, which cannot know it.

    `types`: only these. `since`: only what was made after that mark, and of what was not seen being made
    only what was not there then. Raises SavedTraceError where the mark is of another boot or machine.
    """
    opened: Iterable[Opened] = reading.opened if since is None else opened_since(reading, since)
    if types:
        opened = [one for one in opened if one.type in types]
    rows, rest = _rows(opened, by, _sizes(reading.opened))
    found = [row.as_row(key) for key, row in rows.items()]
    found.sort(key=lambda row: (-row.count, row.group))
    return tuple(found), rest.as_not_seen() if reading.alive else None


def call_sites(reading: TraceReading, resource: str) -> tuple[CallSite, ...]:
    """From where what is open of a resource was made, grouped by the program's own frame, most first.

    `resource` as series name it: "fd", "fd.pipe", "fd.pipe.nobody", "shm.held", "threads", "children".
    Shared memory counts by segment, everything else by FD, thread or process.
    """
    seen = (one for one in _of_resource(reading, resource) if one.made is not None and one.made.stack)
    rows, _ = _rows(seen, "site", {})
    return tuple(
        row.as_call_site() for _, row in sorted(rows.items(), key=lambda item: (-item[1].count, item[0]))
    )


def _rows(opened: Iterable[Opened], by: By, sizes: Sizes) -> tuple[dict[str, _Row], _Row]:
    """The rows by their names, and that of what was not seen being made."""
    name = _NAMERS[by]()
    rows: dict[str, _Row] = {}
    rest = _Row(sizes)
    for one in opened:
        if one.made is None:
            rest.add(one)
            continue
        key = name(one, one.made)
        row = rows.get(key)
        if row is None:
            row = rows[key] = _Row(sizes)
        row.add(one)
    return rows, rest


def _of_resource(reading: TraceReading, resource: str) -> list[Opened]:
    head, _, rest = resource.partition(".")
    if head in ("threads", "children"):
        wanted = "thread" if head == "threads" else "process"
        return [one for one in reading.opened if one.type == wanted]
    if head == "shm":
        return list({one.key[:2]: one for one in reading.opened if one.type in SEGMENTS}.values())
    if head != "fd":
        return []
    kind, _, peer = rest.partition(".")
    found = [one for one in reading.opened if one.fd is not None and kind in ("", one.type)]
    return _alone(found) or found if peer in ("nobody", "unknown") else found


def _alone(ends: Collection[Opened]) -> list[Opened]:
    """Those of which no other end is seen here: a pipe that is in use between these processes has two."""
    seen = Counter(one.key for one in ends)
    return [one for one in ends if seen[one.key] == 1]


class _Row:
    """A row while it is filled."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self.count = 0
        self._types: Counter[str] = Counter()
        self._holders: Counter[str] = Counter()
        self._segments: set[tuple[int | None, ...]] = set()
        # Stacks by identity: those of one call site are one object, and to hash sixteen frames is slow.
        self._stacks: dict[int, tuple[Frame, ...]] = {}
        self._of_stack: Counter[int] = Counter()
        self._times: set[float] = set()

    def add(self, one: Opened) -> None:
        self.count += 1
        self._types[one.type] += 1
        self._holders[str(one.pid)] += 1
        if one.type in SEGMENTS:
            self._segments.add(one.key[:2])
        if one.made is not None:
            self._stacks[id(one.made.stack)] = one.made.stack
            self._of_stack[id(one.made.stack)] += 1
            self._times.add(one.made.at)

    def as_row(self, name: str) -> TraceRow:
        return TraceRow(
            group=name,
            count=self.count,
            bytes=self._bytes(),
            by_type=dict(self._types.most_common()),
            by_process=dict(self._holders.most_common()),
            first_at=iso(min(self._times)),
            last_at=iso(max(self._times)),
            stack=self._stack(),
        )

    def as_call_site(self) -> CallSite:
        return CallSite(self.count, self._stack())

    def _stack(self) -> tuple[str, ...]:
        most, _ = self._of_stack.most_common(1)[0]
        return tuple(str(frame) for frame in reversed(self._stacks[most]))

    def as_not_seen(self) -> NotSeen:
        return NotSeen(
            self.count, self._bytes(), dict(self._types.most_common()), dict(self._holders.most_common())
        )

    def _bytes(self) -> int | None:
        """None where one segment may not be asked: the others alone would pass for the whole."""
        total = 0
        for segment in self._segments:
            size = self._sizes[segment]
            if size is None:
                return None
            total += size
        return total


def _sizes(opened: Iterable[Opened]) -> Sizes:
    """The size of each segment: one process may know it of what another only maps."""
    sizes: Sizes = {}
    for one in opened:
        if one.type in SEGMENTS and sizes.get(one.key[:2]) is None:
            sizes[one.key[:2]] = one.bytes
    return sizes


Namer = Callable[[Opened, Made], str]


def _by_site() -> Namer:
    known: dict[int, str] = {}

    def name(_: Opened, made: Made) -> str:
        found = known.get(id(made.stack))
        if found is None:
            found = known[id(made.stack)] = str(own_frame(made.stack)) if made.stack else NO_SITE
        return found

    return name


def _by_type() -> Namer:
    return lambda one, _: one.type


def _by_thread() -> Namer:
    return lambda _, made: f"thread {made.thread} of process {made.pid}"


def _by_process() -> Namer:
    return lambda one, _: f"process {one.pid}"


_NAMERS: Mapping[By, Callable[[], Namer]] = {
    "site": _by_site,
    "type": _by_type,
    "thread": _by_thread,
    "process": _by_process,
}
