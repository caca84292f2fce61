"""Faults in loader processes that happen when they are asked for: at a moment that a file marks.

The file has the fault's name and lies in the directory that `AMIDIAG_FAULT_TRIGGERS` names; the loader process
that takes it away has the fault. What reaches loader processes is a function that DataLoader starts them with:
it is found by its name under fork, forkserver and spawn alike.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

TRIGGERS = "AMIDIAG_FAULT_TRIGGERS"
RAISE, EXIT, FEEDER_DIES, FEEDER_ERROR = "loader-raises", "loader-exits", "feeder-dies", "feeder-error"
KINDS = (RAISE, EXIT, FEEDER_DIES, FEEDER_ERROR)
EXIT_STATUS = 3

_LOOK_EVERY_S = 0.01
_FEEDER = "QueueFeederThread"

_worker_loop: Callable[..., None] | None = None


def arm() -> str:
    """Let loader processes look for triggers. Returns what was done, for people."""
    import torch.utils.data._utils.worker as torchs

    global _worker_loop
    worker: Any = torchs
    if TRIGGERS not in os.environ:
        raise SystemExit(f"the fault loader-on-demand needs the directory of its triggers in {TRIGGERS}")
    _worker_loop = worker._worker_loop
    worker._worker_loop = worker_loop
    return "armed: a loader process raises, exits, or loses its feeder thread when a file asks for it"


def worker_loop(*args: Any) -> None:
    """DataLoader's own, in a loader process that looks for triggers."""
    from torch.utils.data._utils import worker

    own = _worker_loop or worker._worker_loop
    _install(args[1], args[3], Path(os.environ[TRIGGERS]))
    own(*args)


def _install(dataset: Any, results: Any, triggers: Path) -> None:
    _raise_in(type(dataset), triggers)
    _fail_in_feeder(triggers)
    threading.Thread(target=_listen, args=[results, triggers], name="planted-faults", daemon=True).start()


def _claim(triggers: Path, name: str) -> bool:
    """Whether the fault is asked for; only one process is told so, once."""
    try:
        (triggers / name).unlink()
    except FileNotFoundError:
        return False
    return True


def _raise_in(dataset: Any, triggers: Path) -> None:
    load = dataset.__getitems__

    def getitems(self: Any, keys: Any) -> Any:
        for step in (lambda: None, lambda: load(self, keys)):
            done = step()
            if _claim(triggers, RAISE):
                raise RuntimeError("planted: the loader raises")
        return done

    dataset.__getitems__ = getitems


def _fail_in_feeder(triggers: Path) -> None:
    dumps = ForkingPickler.dumps

    def failing(obj: Any, protocol: int | None = None) -> Any:
        if threading.current_thread().name == _FEEDER and _claim(triggers, FEEDER_ERROR):
            raise OSError(errno.ENOSPC, "planted: the feeder thread cannot send a batch")
        return dumps(obj, protocol)

    ForkingPickler.dumps = staticmethod(failing)  # type: ignore[method-assign]


def _listen(results: Any, triggers: Path) -> None:
    """For what is to happen at once, whatever the main thread is at."""
    while True:
        time.sleep(_LOOK_EVERY_S)
        if _claim(triggers, EXIT):
            os._exit(EXIT_STATUS)
        feeder = results._thread
        if feeder is not None and _claim(triggers, FEEDER_DIES):
            # Nothing in its loop catches a SystemExit, and threading says nothing of it.
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(feeder.ident), ctypes.py_object(SystemExit)
            )
