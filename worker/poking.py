"""How another thread takes the main thread out of a wait: by a signal, on which a function of the waiter may raise.

The main thread may wait in a system call that knows no time limit (DataLoader: `recv` of an FD, FACTS 8). A signal
interrupts it, and what a handler in Python raises leaves it (PEP 475).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNAL = signal.SIGURG  # without a handler it is ignored, and nobody else sends it

_raisers: list[Callable[[], None]] = []


def on_poke(raiser: Callable[[], None]) -> bool:
    """Have `raiser` called in the main thread at each poke; it raises if the wait is its own and is to end.

    To be called by the main thread. Returns whether it was: another thread cannot install a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if raiser not in _raisers:
        _raisers.append(raiser)
    signal.signal(SIGNAL, _poked)
    return True


def no_more(raiser: Callable[[], None]) -> None:
    """Take `raiser` back, and with the last one the handler."""
    if raiser in _raisers:
        _raisers.remove(raiser)
    if not _raisers and threading.current_thread() is threading.main_thread():
        signal.signal(SIGNAL, signal.SIG_DFL)


def poke() -> None:
    """Poke the main thread, from any thread."""
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, SIGNAL)


def _poked(number: int, frame: FrameType | None) -> None:
    for raiser in list(_raisers):
        raiser()
