"""The commands by their names: each is the function `command` of the module of that name beside this one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from amidiag.cli.door import CommandError
from amidiag.model import ExitCode

COMMANDS = ("fds", "shm", "trace", "run", "rate", "soak", "gate", "schema")
"""In the order of the help."""
TAKES_WORDS = "run"
"""What follows it belongs to the program that is run."""
INTERRUPTED = 130
_STARTING = ("soak", "gate")


def module_of(name: str) -> ModuleType:
    """Its module, imported when it is asked for: all together they cost as much as reading 20 FDs."""
    return importlib.import_module(f"amidiag.cli.{name}")


def function_of(name: str) -> Callable[..., int]:
    """What the command does, as `interruptible` makes it."""
    interrupted = "interrupted; what was started has been ended" if name in _STARTING else "interrupted"
    return interruptible(module_of(name).command, interrupted)


def interruptible(command: Callable[..., int], interrupted: str) -> Callable[..., int]:
    """Turn what click would end silently, with exit code 1, into our own errors: Ctrl-C and EPIPE."""

    @functools.wraps(command)
    def run_command(*args: Any, **options: Any) -> int:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:
            raise CommandError(interrupted, INTERRUPTED) from None
        except BrokenPipeError as e:
            # Not the reader of our output, which is no error (`door.Output`): something else has gone.
            text = f"the other end of a pipe or socket is gone: {e}"
            raise CommandError(text, ExitCode.CANNOT_OBSERVE) from e

    return run_command
