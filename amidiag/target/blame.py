"""Whose error it is that came up inside a hook: ours, or the program's.

Signal handlers and trace functions run between any two of our steps, and other threads may raise into
this one (PyThreadState_SetAsyncExc): what comes from them must reach the program.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os

_OWN_DIRECTORY = os.path.dirname(os.path.abspath(__file__)) + os.sep
# Where the functions of Python's own that we call are written.
_CALLED = frozenset(f.__code__.co_filename for f in (os.fsdecode, os.path.join))
_MODULES = ("builtins", "struct")


def is_ours(error: BaseException) -> bool:
    """Whether an error that a hook has caught was raised by our own code."""
    kind = type(error)
    if not issubclass(kind, Exception) or kind.__module__ not in _MODULES:
        return False
    # What another thread raises into this one is made of its class alone; Python's own errors say something.
    if not error.args and kind is not MemoryError:
        return False
    trace = error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not (file.startswith(_OWN_DIRECTORY) or file in _CALLED):
            return False
        trace = trace.tb_next
    return True


def raised_by_call(error: BaseException) -> bool:
    """Whether it comes from what the catching function itself has called, of C: then no frame is below it.

    For a narrow `except`: a signal handler may raise an error of just that sort (TimeoutError is an OSError).
    """
    trace = error.__traceback__
    return trace is not None and trace.tb_next is None


def take_out_our_frames(error: BaseException) -> None:
    """Let its traceback begin with the program's own frames (not on 3.10)."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OWN_DIRECTORY):
        trace = trace.tb_next
    error.__traceback__ = trace
