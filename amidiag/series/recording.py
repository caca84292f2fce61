"""Observations of one tree over cycles, laid out as named series."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from amidiag.model import Observation, ProcessObservation, Unit

NAN = math.nan


class Recording:
    """Collects observations of one tree; every series has one value per observation, NaN where unknown.

    Resources: `fd`, `fd.TYPE`, `fd.pipe.PEER`, `threads`, `children`, `memory.rss`, `memory.anonymous`,
    `shm.held`, and `tree.fd`, `tree.threads`, `tree.memory` (anonymous). Those of FDs, threads and memory are the
    root process's; `children`, `shm.held` and what begins with `tree` are of all processes together.
    """

    def __init__(self, *, timed: bool = True) -> None:
        """`timed`: whether `seconds` counts as a counter; under compressed time it does not."""
        self.timed = timed
        self.observations = 0
        self.times: list[float] = []
        self.last: Observation | None = None
        self._series: dict[str, list[float]] = {}
        self._counters: dict[str, list[float]] = {}

    def add(self, observation: Observation, counted: Mapping[str, float] | None = None) -> None:
        """Append one observation of the same tree; `counted` stands in for a status page that is not there."""
        root = observation.processes[0]
        counters = _counters(root) or dict(counted or {})
        self.add_row(resources(observation), counters, observation.at, _absent(root))
        self.last = observation

    def add_row(
        self,
        row: dict[str, float],
        counters: dict[str, float],
        at: float,
        absent: Callable[[str], float] = lambda resource: NAN,
    ) -> None:
        """Append values by resource, counters, and the moment in seconds; `absent` gives what the row leaves out."""
        _append(self._series, self.observations, row, absent)
        _append(self._counters, self.observations, counters, lambda name: NAN)
        self.times.append(at)
        self.observations += 1

    @property
    def resources(self) -> tuple[str, ...]:
        """The names of the series, sorted."""
        return tuple(sorted(self._series))

    def values(self, resource: str) -> list[float]:
        """The series of one resource, in its unit; a type of FD that was never seen is 0 throughout."""
        return self._series.get(resource, [NAN] * self.observations)

    @property
    def counters(self) -> dict[str, list[float]]:
        """The worker's counters beside the observations, and `seconds` where time is real."""
        return {**self._counters, "seconds": list(self.times)} if self.timed else dict(self._counters)


def resources(observation: Observation) -> dict[str, float]:
    """The values of one observation by the name of their resource; what was not read is left out."""
    root, tree = observation.processes[0], observation.processes
    found: dict[str, float | int | None] = {
        "fd": root.fds.open,
        "threads": root.threads,
        "children": len(tree) - 1,
        "memory.rss": root.memory.rss,
        "memory.anonymous": root.memory.anonymous,
        "shm.held": observation.tree.shm_unique,
        "tree.fd": _sum(process.fds.open for process in tree),
        "tree.threads": _sum(process.threads for process in tree),
        "tree.memory": _sum(process.memory.anonymous for process in tree),
    }
    for kind, count in (root.fds.by_type or {}).items():
        found[f"fd.{kind}"] = count
    for kind, peers in (root.fds.peers or {}).items():
        for peer, count in asdict(peers).items():
            found[f"fd.{kind}.{peer}"] = count
    return {name: float(value) for name, value in found.items() if value is not None}


def unit_of(resource: str) -> Unit:
    """The unit in which a resource is counted."""
    kind = resource.removeprefix("tree.")
    if kind.startswith(("memory", "shm")):
        return "byte"
    return "fd" if kind.startswith("fd") else "thread"


def _sum(counts: Iterable[int | None]) -> int | None:
    """None where one of them is not known."""
    known = list(counts)
    return None if None in known else sum(count or 0 for count in known)


def _counters(process: ProcessObservation) -> dict[str, float]:
    if process.status is None:
        return {}
    return {name: float(value) for name, value in asdict(process.status.counters).items()}


def _absent(root: ProcessObservation) -> Callable[[str], float]:
    """What a resource counts that an observation does not name: 0 where its kind was read, else unknown."""

    def value(resource: str) -> float:
        parts = resource.split(".")
        read = root.fds.by_type if len(parts) == 2 else root.fds.peers
        return 0.0 if parts[0] == "fd" and len(parts) > 1 and read is not None else NAN

    return value


def _append(
    columns: dict[str, list[float]], rows: int, row: dict[str, float], absent: Callable[[str], float]
) -> None:
    for name in row.keys() - columns.keys():
        # A type of FD that appears late was not there before.
        columns[name] = [absent(name)] * rows
    for name, column in columns.items():
        column.append(row[name] if name in row else absent(name))
