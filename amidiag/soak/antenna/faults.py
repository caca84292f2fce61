"""Which request meets which fault: counts down the next N, draws by a seeded chance."""

from __future__ import annotations

import random
import threading
from collections import Counter

from amidiag.soak.antenna.words import SERVER_KINDS, FaultKind, FaultSpec, Route


class _ArmedFault:
    __slots__ = ("left", "random", "spec")

    def __init__(self, spec: FaultSpec, seed: str) -> None:
        self.spec = spec
        self.left = spec.requests
        self.random = random.Random(seed)


class FaultBox:
    """The faults that are armed. Those of the whole server are done elsewhere and only counted here. Thread-safe."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._armed: list[_ArmedFault] = []
        self._added = 0
        self._met: Counter[str] = Counter()

    def add(self, spec: FaultSpec) -> None:
        """Arms a fault. The n-th fault of a server always draws the same numbers for its seed."""
        with self._lock:
            self._added += 1
            if spec.kind in SERVER_KINDS:
                self._met[spec.kind] += 1
            else:
                self._armed.append(_ArmedFault(spec, f"{self._seed}/{self._added}"))

    def clear(self) -> None:
        """Disarms all faults."""
        with self._lock:
            self._armed.clear()

    def meet(self, route: Route, kinds: tuple[FaultKind, ...]) -> FaultSpec | None:
        """The fault of one of these kinds that a request to `route` meets now, and uses up."""
        with self._lock:
            for fault in self._armed:
                spec = fault.spec
                if spec.kind not in kinds or route not in spec.routes:
                    continue
                if spec.probability is not None and fault.random.random() >= spec.probability:
                    continue
                if fault.left is not None:
                    fault.left -= 1
                    if not fault.left:
                        self._armed.remove(fault)
                self._met[spec.kind] += 1
                return spec
            return None

    def met(self) -> dict[str, int]:
        """How often each kind was met."""
        with self._lock:
            return dict(self._met)
