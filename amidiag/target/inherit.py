"""How Python programs that a traced program starts come to be traced: two environment variables.

`AMI_DIAG_TRACE` says that it is wanted; `PYTHONPATH` begins with our `boot` directory, whose
`sitecustomize` begins it. The program itself sees neither the directory in its path nor the changed
`PYTHONPATH` in `os.environ`: only the C library's environment, which children get, holds it. A child
that is given an environment of its own gets the path if that environment asks for tracing.
Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os

# The unhooked one.
from posix import putenv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType
    from typing import Any

    from .hook import Call

VARIABLE = "AMI_DIAG_TRACE"
_PATH = "PYTHONPATH"
_OFF = ("", "0", "false", "no", "off")
BOOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "boot")
# An empty PYTHONPATH is as good as none; but one that ends in a colon names the current directory.
_EMPTY = f"{BOOT}{os.pathsep}{BOOT}"


class _State:
    """`added`: AMI_DIAG_TRACE was put there by us."""

    on = False
    added = False


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether this environment asks for tracing."""
    return environment.get(VARIABLE, "").strip().lower() not in _OFF


def environment(outer: Mapping[str, str]) -> dict[str, str]:
    """`outer` and what makes a Python program that is started with it traced."""
    return {**outer, VARIABLE: "1", _PATH: with_boot(outer.get(_PATH))}


def with_boot(path: str | None) -> str:
    """A PYTHONPATH that begins with the boot directory."""
    path = without_boot(path)
    if path is None:
        return BOOT
    return f"{BOOT}{os.pathsep}{path}" if path else _EMPTY


def without_boot(path: str | None) -> str | None:
    """The PYTHONPATH as the program's own user has set it; None if there was none."""
    if path is None or path == BOOT:
        return None
    if path == _EMPTY:
        return ""
    return path[len(BOOT) + 1 :] if path.startswith(BOOT + os.pathsep) else path


def switch_on() -> None:
    """Let programs that this one starts be traced."""
    _State.added = not wanted(os.environ)
    if _State.added:
        os.environ[VARIABLE] = "1"
    path = without_boot(os.environ.get(_PATH))
    _show(path)
    # The C library's environment has our directory, os.environ has not.
    putenv(_PATH, with_boot(path))
    _State.on = True


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
    _restore()


def _restore() -> None:
    path = without_boot(os.environ.get(_PATH))
    _show(path)
    if path is None:
        os.unsetenv(_PATH)


def _show(path: str | None) -> None:
    if path is None:
        os.environ.pop(_PATH, None)
    else:
        os.environ[_PATH] = path


def put_variable(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """`os.putenv(name, value)`, which `os.environ` calls too: a new PYTHONPATH keeps our directory."""
    if _State.on and len(args) == 2 and os.fsdecode(args[0]) == _PATH:
        return function, (args[0], with_boot(os.fsdecode(args[1]))), kwargs
    return function, args, kwargs


def unset_variable(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """`os.unsetenv(name)`: without a PYTHONPATH our directory stays in it."""
    if _State.on and len(args) == 1 and os.fsdecode(args[0]) == _PATH:
        return putenv, (args[0], BOOT), kwargs
    return function, args, kwargs


def third_mapping(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
) -> Call:
    """`execve` and `posix_spawn`: the third argument is the environment of the program."""
    if len(args) > 2:
        args = (*args[:2], _child_mapping(args[2]), *args[3:])
    elif "env" in kwargs:
        kwargs = {**kwargs, "env": _child_mapping(kwargs["env"])}
    return function, args, kwargs


def sixth_list(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`fork_exec`: the sixth argument is the environment of the program."""
    return (*args[:5], _child_list(args[5]), *args[6:]) if len(args) > 5 else args


def _child_list(given: Sequence[Any] | None) -> Sequence[Any] | None:
    """An environment as `fork_exec` takes it: `NAME=value` as bytes, or None for our own."""
    if not _State.on or given is None:
        return given
    pairs = dict(item.split(b"=", 1) for item in map(os.fsencode, given) if b"=" in item)
    if not wanted({VARIABLE: os.fsdecode(pairs.get(VARIABLE.encode(), b""))}):
        return given
    name = _PATH.encode()
    path = pairs.get(name)
    ours = os.fsencode(f"{_PATH}={with_boot(None if path is None else os.fsdecode(path))}")
    return [item for item in given if not os.fsencode(item).startswith(name + b"=")] + [ours]


def _child_mapping(given: Any) -> Any:
    """The same for a mapping, as `execve` and `posix_spawn` take it, with names as text or bytes."""
    # Of other classes than these the methods are the program's own code.
    if not _State.on or type(given) not in (dict, type(os.environ)):
        return given
    plain = {os.fsdecode(key): os.fsdecode(value) for key, value in given.items()}
    return {**plain, _PATH: with_boot(plain.get(_PATH))} if wanted(plain) else given
