"""Tracing from inside a program: switched on by its own code, or around a piece of it in a test.

import amidiag.trace

amidiag.trace.install()                      # from now on; `amidiag trace PID` reads it from outside

with amidiag.trace.tracing() as traced:      # in a test
    work()
    assert not traced.open_now(types=("pipe", "socket"))
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from amidiag.attach.call_sites import read_trace
from amidiag.attach.grouping import group
from amidiag.attach.grown import made_since, now
from amidiag.model import TraceRow
from amidiag.target import tracer
from amidiag.target.tracer import Tracer

__all__ = ["Traced", "Tracer", "TracingError", "install", "tracing", "uninstall"]


class TracingError(Exception):
    """Tracing cannot be switched on, or has ended; the text says why."""


def install(*, children: bool = True) -> Tracer:
    """Switch tracing on in this process and in those that it forks, and give the tracer. Never raises.

    `children`: Python programs that it starts are traced too. Where it cannot be switched on, `Tracer.error`
    says why, and the program runs as it would.
    """
    return tracer.install(children=children)


def uninstall() -> None:
    """Switch tracing off: every hook is taken out, the table removed. Children that were forked keep theirs."""
    tracer.installed().uninstall()


class Traced:
    """What was made since a moment in this process."""

    def __init__(self) -> None:
        self._ended = False
        self._since = now()

    def open_now(self, *, types: Collection[str] = ()) -> tuple[TraceRow, ...]:
        """What was made since and is open now, by call site, most first; only `types`, as `fds` names them.

        Raises TracingError after the end of the `with` that it came from, CannotObserve (procfs.errors).
        """
        if self._ended:
            raise TracingError("tracing has ended: ask inside the `with`")
        rows, _ = group(made_since(read_trace(os.getpid()), self._since), types=types)
        return rows


@contextmanager
def tracing(*, children: bool = False) -> Iterator[Traced]:
    """Trace what the block does. Where tracing was on before, it stays on.

    Raises:
        TracingError: it cannot be switched on.
    """
    was_on = tracer.installed().region is not None
    started = install(children=children)
    if started.error is not None:
        raise TracingError(f"tracing cannot be switched on: {started.error}")
    traced = Traced()
    try:
        yield traced
    finally:
        traced._ended = True
        if not was_on:
            uninstall()
