"""The end of the process, within a bounded time."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing import resource_tracker

from amidiag.procfs.errors import CannotObserve
from amidiag.procfs.identity import identify
from amidiag.procfs.tree import read_tree

log = logging.getLogger(__name__)

LIMIT_S = 10.0
# Beyond the limit, for an end at which no thread of Python runs any more.
_ALARM_AFTER_S = 5.0
# They clean up after those that were killed, and end by themselves.
_SHM_MANAGER = "torch_shm_manag"


def leave_within(code: int, limit_s: float = LIMIT_S) -> None:
    """From now on the interpreter has `limit_s` seconds to end; then the process ends with `code` all the same.

    Child processes that still live are killed: Python would wait for them without a limit, and one that is
    stopped does not even hear SIGTERM (FACTS 8). What hangs where no thread runs any more, as in the destructors of
    libraries, is ended by SIGALRM 5 s later, so not with `code`.
    """
    kill_descendants()
    threading.Thread(target=_leave, args=(code, limit_s), name="ami-leave", daemon=True).start()
    signal.setitimer(signal.ITIMER_REAL, limit_s + _ALARM_AFTER_S)


def kill_descendants() -> None:
    """SIGKILL to all that this process has started: loader processes, fork server, and what they have started."""
    try:
        tree = read_tree(identify(os.getpid()))
    except CannotObserve:
        # At EMFILE. The others notice by themselves that the worker is gone.
        for child in multiprocessing.active_children():
            child.kill()
        return
    spared = getattr(resource_tracker, "_resource_tracker")._pid  # noqa: B009 - private, and not in the stubs
    for process in tree[1:]:
        if process.pid != spared and process.name != _SHM_MANAGER and not process.ended:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, signal.SIGKILL)


def _leave(code: int, limit_s: float) -> None:
    time.sleep(limit_s)
    log.error("the interpreter has not ended within %g s: ended with code %s all the same", limit_s, code)
    os._exit(code)
