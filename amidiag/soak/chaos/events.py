"""What happens on a bad day, by name: to the loader processes, to the server, to the worker itself."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from amidiag.soak.antenna import FaultSpec
from amidiag.soak.antenna.words import FaultKind, Route
from amidiag.soak.chaos.scene import Scene
from amidiag.soak.chaos.strikes import STRIKES, Strike

Group = Literal["loader", "server", "worker"]

_AIM_S = 3.0
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Event:
    """`act` does it and returns for how many seconds it lasts, None where its moment did not come.

    `excuses`: a delivery during which it happens may end without an answer, by the rules of the queue or because
    the worker was told to leave it.
    """

    group: Group
    act: Callable[[Scene], float | None]
    excuses: bool = False


def _strike(strike: Strike, scene: Scene) -> float | None:
    return None if strike.aim(scene, _AIM_S) is None else 0.0


def _requests(
    kind: FaultKind, most: int, on: tuple[Route, ...], seconds: tuple[float, float], scene: Scene
) -> float:
    """So many requests meet it, at most."""
    scene.server.fault(
        FaultSpec(
            kind,
            on=on,
            requests=scene.rng.randint(1, most),
            seconds=scene.stretch * scene.rng.uniform(*seconds),
        )
    )
    return 0.0


def _refuse(scene: Scene) -> float:
    """503 to everything, for up to a minute."""
    seconds = scene.stretch * scene.rng.uniform(5.0, _MINUTE_S)
    scene.server.fault(FaultSpec("503"))
    scene.later(seconds, scene.server.clear_faults)
    return seconds


def _whole(kind: FaultKind, least: float, most: float, scene: Scene, on: tuple[Route, ...] = ()) -> float:
    """A fault of the server, or of its image store, as a whole."""
    seconds = scene.stretch * scene.rng.uniform(least, most)
    scene.server.fault(FaultSpec(kind, on=on, seconds=seconds))
    return seconds


def _jump(scene: Scene) -> float:
    """Every reservation runs out at once."""
    scene.server.fault(FaultSpec("clock-jump", seconds=_MINUTE_S))
    return 0.0


def _tell(number: signal.Signals, scene: Scene) -> float | None:
    if not scene.worker.alive:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(scene.worker.pid, number)
        return 0.0
    return None


def _freeze(scene: Scene) -> float | None:
    """The worker itself is stopped, and goes on after a while."""
    pid, seconds = scene.worker.pid, scene.stretch * scene.rng.uniform(1.0, 20.0)
    if _tell(signal.SIGSTOP, scene) is None:
        return None
    scene.later(seconds, partial(_go_on, pid))
    return seconds


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


_API: tuple[Route, ...] = ("jobs", "tasks", "result")
_NONE = (0.0, 0.0)

EVENTS: dict[str, Event] = {
    **{name: Event("loader", partial(_strike, strike)) for name, strike in STRIKES.items()},
    "server refuses": Event("server", _refuse),
    "server throttles": Event("server", partial(_requests, "429", 6, _API, (1.0, 5.0))),
    "server resets": Event("server", partial(_requests, "reset", 4, _API, _NONE)),
    "server cuts an answer": Event("server", partial(_requests, "cut", 4, _API, _NONE)),
    "server stalls": Event("server", partial(_requests, "stall", 2, _API, (5.0, _MINUTE_S))),
    "server half-closes": Event("server", partial(_requests, "half-closed", 3, _API, (1.0, _MINUTE_S))),
    "server restarts": Event("server", partial(_whole, "down", 0.5, 20.0, on=_API)),
    "image store restarts": Event("server", partial(_whole, "down", 0.5, 3.0, on=("images",))),
    "clock jumps a minute": Event("server", _jump, excuses=True),
    "clock stands a minute": Event("server", partial(_whole, "clock-stop", _MINUTE_S, _MINUTE_S)),
    "download cut": Event("server", partial(_requests, "cut", 1, ("images",), _NONE)),
    "download reset": Event("server", partial(_requests, "reset", 1, ("images",), _NONE)),
    "download stalls": Event("server", partial(_requests, "stall", 1, ("images",), (20.0, _MINUTE_S))),
    "worker SIGTERM": Event("worker", partial(_tell, signal.SIGTERM), excuses=True),
    "worker SIGUSR1": Event("worker", partial(_tell, signal.SIGUSR1), excuses=True),
    "worker kill -9": Event("worker", partial(_tell, signal.SIGKILL), excuses=True),
    "worker stopped a while": Event("worker", _freeze, excuses=True),
}
