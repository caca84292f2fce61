"""The kernel kills this process when its parent ends, whatever state either is in."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import threading

_PR_SET_PDEATHSIG = 1
_IN_FORK_SERVER = "worker.ingest.in_fork_server"


def die_with_parent() -> None:
    """Be killed at the death of the parent: of the very thread that started this process (PR_SET_PDEATHSIG).

    Where the kernel refuses that, the process ends as before, when it sees by itself that the parent is gone.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def may_be_asked() -> bool:
    """Whether children that this thread starts may call `die_with_parent`. Also tells the fork server to be.

    Only the main thread: another one may end before the process does.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    # Of the fork server that is started next; __main__ is what it preloads unless told otherwise.
    multiprocessing.set_forkserver_preload(["__main__", _IN_FORK_SERVER])
    return True
