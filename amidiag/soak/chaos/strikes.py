"""What is done to a worker: each strike waits for its state of things, within a time, and says when it struck."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from amidiag.soak.antenna import FaultSpec
from amidiag.soak.chaos import private_shm
from amidiag.soak.chaos.new_files import NewFiles
from amidiag.soak.chaos.scene import Scene
from amidiag.soak.faults import on_demand

Aim = Callable[[Scene, float], float | None]
"""Strikes within so many seconds; returns when (monotonic), or None where the moment did not come."""

# Of two batches that the parent has not taken, at most one is still on its way into the queue.
_QUEUED = 2
_SLOW_IMAGES, _SLOW_S = 8, 1.5
_FULL_S = (1.0, 5.0)
_STOPPED_WITHIN_S = 1.0


@dataclass(frozen=True)
class Strike:
    """`between`: it comes while there is no job, and the next job meets what it left."""

    aim: Aim
    between: bool = False


def _kill(scene: Scene, within: float) -> float | None:
    return _signal(scene, within, signal.SIGKILL)


def _stop(scene: Scene, within: float) -> float | None:
    return _signal(scene, within, signal.SIGSTOP)


def _signal(scene: Scene, within: float, number: signal.Signals) -> float | None:
    scene.until(within, lambda: scene.a_loader() is not None)
    pid = scene.a_loader()
    if pid is None:
        return None
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return None
    return time.monotonic()


def _stop_downloading(scene: Scene, within: float) -> float | None:
    def met() -> int:
        return scene.server.state([]).faults.get("slow", 0)

    before = met()
    scene.server.fault(FaultSpec("slow", requests=_SLOW_IMAGES, seconds=_SLOW_S))
    if not scene.until(within, lambda: met() > before):
        return None
    scene.wait(scene.rng.uniform(0.0, 0.6 * _SLOW_S))
    return _stop(scene, 0.0)


def _stop_queued(scene: Scene, within: float) -> float | None:
    end = time.monotonic() + within
    while time.monotonic() < end:
        pid = scene.a_loader()
        if pid is None or _batches_held(pid) < _QUEUED:
            scene.tick()
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            struck = time.monotonic()
            if _has_stopped(pid) and _batches_held(pid) >= _QUEUED:
                return struck
            # The parent was faster: not this moment.
            os.kill(pid, signal.SIGCONT)
    return None


def _has_stopped(pid: int) -> bool:
    end = time.monotonic() + _STOPPED_WITHIN_S
    while time.monotonic() < end:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            if file.read().rpartition(b")")[2].split()[0] == b"T":
                return True
        time.sleep(0.001)
    return False


def _batches_held(pid: int) -> int:
    """The batches that a loader process has made and nobody has taken: nothing maps them, it alone holds their FDs."""
    held = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with contextlib.suppress(FileNotFoundError):
                held += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("/dev/shm/torch_")  # noqa: PTH115
    return held


def _delete_shm(scene: Scene, within: float) -> float | None:
    """Unlink a segment before its maker does: whoever unlinks it second has been in the create window."""
    directory = private_shm.directory(scene.worker.pid)
    end = time.monotonic() + within
    with contextlib.suppress(FileNotFoundError), NewFiles(directory) as files:
        while time.monotonic() < end:
            for name in files.names(0.1):
                if not name.startswith("torch_"):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    (directory / name).unlink()
                    return time.monotonic()
            scene.worker.tick()
    return None


def _fill_shm(scene: Scene, within: float) -> float | None:
    if not scene.until(within, lambda: scene.a_loader() is not None):
        return None
    try:
        ballast = private_shm.Ballast(scene.worker.pid)
    except FileNotFoundError:
        return None
    scene.later(scene.stretch * scene.rng.uniform(*_FULL_S), ballast.drop)
    return time.monotonic()


def _trigger(name: str, scene: Scene, within: float) -> float | None:
    """Ask for a fault that is armed in the loader processes, and wait until one of them has taken it."""
    trigger = scene.triggers / name
    trigger.touch()
    taken = scene.until(within, lambda: not trigger.exists())
    if not taken:
        with contextlib.suppress(FileNotFoundError):
            trigger.unlink()
            return None
    return time.monotonic()


STRIKES: dict[str, Strike] = {
    "kill -9": Strike(_kill),
    "stopped idle": Strike(_stop, between=True),
    "stopped mid-download": Strike(_stop_downloading),
    "stopped with a batch queued": Strike(_stop_queued),
    "shm file deleted": Strike(_delete_shm),
    "/dev/shm full": Strike(_fill_shm),
    "loader raises": Strike(partial(_trigger, on_demand.RAISE)),
    "loader exits": Strike(partial(_trigger, on_demand.EXIT)),
    "feeder dies": Strike(partial(_trigger, on_demand.FEEDER_DIES)),
    "feeder error": Strike(partial(_trigger, on_demand.FEEDER_ERROR)),
}
