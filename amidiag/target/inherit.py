"""How Python programs that a traced program starts come to be traced: two environment variables.

`AMI_DIAG_TRACE` says that it is wanted; `PYTHONPATH` begins with our `boot` directory, whose
`sitecustomize` begins it. The program itself sees neither the directory in its path nor the changed
`PYTHONPATH` in `os.environ`: only the C library's environment, which children get, holds it. A child
that is given an environment of its own gets the path if that environment asks for tracing.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

VARIABLE = "AMI_DIAG_TRACE"
_PATH = "PYTHONPATH"
_OFF = ("", "0", "false", "no", "off")
BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot")


class _State:
    """What was there before. `added`: AMI_DIAG_TRACE was put there by us."""

    on = False
    added = False
    path: str | None = None


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether this environment asks for tracing."""
    return environment.get(VARIABLE, "").strip().lower() not in _OFF


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """`outer` and what makes a Python program that is started with it traced."""
    return {**outer, VARIABLE: "1", _PATH: with_boot(outer.get(_PATH))}


def with_boot(path: str | None) -> str:
    """A PYTHONPATH that begins with the boot directory."""
    return BOOT if path is None else f"{BOOT}{os.pathsep}{without_boot(path) or ''}"


def without_boot(path: str | None) -> str | None:
    """The PYTHONPATH as the program's own user has set it; None if there was none."""
    if path is None or path == BOOT:
        return None
    return path[len(BOOT) + 1 :] if path.startswith(BOOT + os.pathsep) else path


def switch_on() -> None:
    """Let programs that this one starts be traced."""
    _State.path = without_boot(os.environ.get(_PATH))
    _State.added = not wanted(os.environ)
    if _State.added:
        os.environ[VARIABLE] = "1"
    _hide()
    _State.on = True


def _hide() -> None:
    # The C library's environment has our directory, os.environ has not.
    if _State.path is None:
        os.environ.pop(_PATH, None)
    else:
        os.environ[_PATH] = _State.path
    os.putenv(_PATH, with_boot(_State.path))


def switch_off() -> None:
    """Back to what was before."""
    if not _State.on:
        return
    _State.on = False
    if _State.added:
        os.environ.pop(VARIABLE, None)
    _restore()


def give_up() -> None:
    """Tracing could not be switched on: spare the children the same attempt, and its warning."""
    os.environ.pop(VARIABLE, None)
    path = without_boot(os.environ.get(_PATH))
    if path is None:
        os.environ.pop(_PATH, None)
    else:
        os.environ[_PATH] = path


def _restore() -> None:
    current = os.environ.get(_PATH)
    if current is None:
        os.unsetenv(_PATH)
    else:
        os.environ[_PATH] = current


def child_list(given: Sequence[Any] | None) -> Sequence[Any] | None:
    """The environment of a child as `fork_exec` takes it: `NAME=value` as bytes, or None for our own."""
    if not _State.on:
        return given
    if given is None:
        if os.environ.get(_PATH) == _State.path or not wanted(os.environ):
            return None
        # The program has set a PYTHONPATH since, and ours was lost.
        given = [key + b"=" + value for key, value in os.environb.items()]
    pairs = dict(item.split(b"=", 1) for item in map(os.fsencode, given) if b"=" in item)
    if not wanted({VARIABLE: os.fsdecode(pairs.get(VARIABLE.encode(), b""))}):
        return given
    path = pairs.get(_PATH.encode())
    ours = f"{_PATH}={with_boot(None if path is None else os.fsdecode(path))}"
    return [item for item in given if not os.fsencode(item).startswith(_PATH.encode() + b"=")] + [
        os.fsencode(ours)
    ]


def child_mapping(given: Any) -> Any:
    """The same for a mapping, as `execve` and `posix_spawn` take it, with names as text or bytes."""
    # Of other classes than these the methods are the program's own code.
    if not _State.on or not isinstance(given, (dict, type(os.environ))):
        return given
    plain = {os.fsdecode(key): os.fsdecode(value) for key, value in given.items()}
    return {**plain, _PATH: with_boot(plain.get(_PATH))} if wanted(plain) else given
