"""What a strike sees and can touch: the server, the worker with its loader processes, and what is due later."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from amidiag.soak.antenna import AntennaServer
from amidiag.soak.chaos.supervised import Supervised

TICK_S = 0.02


@dataclass
class Scene:
    """One worker on one server; a context manager, at whose end nothing is due any more.

    `triggers`: where a file asks for a fault that was armed in the loader processes; `stretch`: by how much what
    lasts is longer or shorter than it says.
    """

    server: AntennaServer
    worker: Supervised
    triggers: Path
    rng: random.Random
    stretch: float = 1.0
    _due: list[tuple[float, Callable[[], object]]] = field(default_factory=list)

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.settle()

    def tick(self) -> None:
        """Do what is due, let the supervisor look, and wait a moment."""
        self.worker.tick()
        now = time.monotonic()
        due = [act for at, act in self._due if at <= now]
        self._due = [(at, act) for at, act in self._due if at > now]
        for act in due:
            act()
        time.sleep(TICK_S)

    def later(self, seconds: float, act: Callable[[], object]) -> None:
        """Do this at a tick, so much later."""
        self._due.append((time.monotonic() + seconds, act))

    def until(self, seconds: float, condition: Callable[[], object]) -> bool:
        """Tick until the condition holds; False where it does not within the time."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() >= end:
                return False
            self.tick()
        return True

    def wait(self, seconds: float) -> None:
        """Tick for so long."""
        self.until(seconds, lambda: False)

    def settle(self) -> None:
        """Do at once what is still due later."""
        due, self._due = self._due, []
        for _, act in due:
            act()

    def a_loader(self) -> int | None:
        """The PID of one of the loader processes; None where there is none."""
        loaders = self.worker.loaders()
        return self.rng.choice(loaders) if loaders else None
