"""Which frame of a stack is the program's own: the line that its author can change."""

from __future__ import annotations

import re
from collections.abc import Sequence

from amidiag.attach.trace_region import Frame

# The standard library, and below it what pip installs (Debian calls that dist-packages).
_LIBRARY = re.compile(
    r"/lib(?:32|64)?/(?:python|pypy)3?(?:\.\d+)?t?/|/python3\d+\.zip/|/(?:site|dist)-packages/"
)
_INSTALLED = re.compile(r".*/(?:site|dist)-packages/(.+?)(?:\.py)?(?:/|$)")
# What starts a program and is no part of it: our own code in it, and the script that pip writes for a command.
_OURS = re.compile(r"/amidiag/(?:target|soak/faults)/")
# Installed packages that begin or drive other people's programs.
_DRIVERS = frozenset(
    ("_pytest", "amidiag", "celery", "click", "gunicorn", "pluggy", "torch", "typer", "uvicorn")
)
_COMMAND = re.compile(r"/bin/[^/.]+$")


def own_frame(stack: Sequence[Frame]) -> Frame:
    """The program's own frame of a stack (innermost frame first, not empty).

    The innermost that is neither of the standard library nor installed. If there is none, the program is an
    installed one: the innermost frame of the outermost installed package that is no driver of programs.
    """
    own = next(
        (frame for i, frame in enumerate(stack) if _is_own(frame) and not _starts_child(stack, i)), None
    )
    if own is not None:
        return own
    packages = [(package_of(frame), frame) for frame in stack]
    outermost = next((p for p, _ in reversed(packages) if p is not None and p not in _DRIVERS), None)
    return next((frame for p, frame in packages if p == outermost and p is not None), stack[0])


def package_of(frame: Frame) -> str | None:
    """The installed top-level package that a frame belongs to; None for others."""
    found = _INSTALLED.match(frame.file)
    return found.group(1) if found else None


def is_ours(frame: Frame) -> bool:
    """Whether it is amidiag's own code inside the program: the tracer, or a fault of a soak."""
    return _OURS.search(frame.file) is not None


def _is_own(frame: Frame) -> bool:
    if frame.file.startswith("<frozen ") or _LIBRARY.search(frame.file) or is_ours(frame):
        return False
    return not (frame.function == "<module>" and _COMMAND.search(frame.file))


def _starts_child(stack: Sequence[Frame], at: int) -> bool:
    """Whether it is the one line by which multiprocessing begins a process (`python -c`)."""
    frame, callee = stack[at], stack[at - 1] if at else None
    return (
        (frame.file, frame.function) == ("<string>", "<module>")
        and callee is not None
        and "/multiprocessing/" in callee.file
        and callee.function in ("spawn_main", "main")
    )
