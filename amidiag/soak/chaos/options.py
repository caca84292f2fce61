"""Options of the commands that make bad days: a wrong one is one line and exit code 2."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NoReturn

CONTEXTS = ("fork", "forkserver", "spawn")
"""The start methods of loader processes (multiprocessing)."""


class Options(argparse.ArgumentParser):
    """Shows the defaults in its help; says of a mistake what it is, and nothing else."""

    def __init__(self, name: str, description: str | None) -> None:
        super().__init__(prog=f"python -m benchmarks.{name}", description=description, formatter_class=_Help)

    def error(self, message: str) -> NoReturn:
        """One line; the usage is for `--help`."""
        self.exit(2, f"{self.prog}: {message}\n")


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)" and "(default: False)" say nothing.
        return super()._get_help_string(action) if action.default else action.help


def some_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """A type for `--option a,b`: each is known, and counts once."""

    def read(text: str) -> list[str]:
        names = list(dict.fromkeys(name.strip() for name in text.split(",")))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are: {', '.join(known)}")
        return names

    return read


def at_least_one(text: str) -> int:
    """A type: a number of things."""
    value = _number(text, int, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(value)


def more_than_nothing(text: str) -> float:
    """A type: a length of time."""
    value = _number(text, float, "a number")
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return value


def new_directory(text: str) -> Path:
    """A type: a directory that is made where it is not there, and in which there is nothing yet."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
        empty = not any(path.iterdir())
    except OSError as e:
        raise argparse.ArgumentTypeError(f"{text} cannot be used: {e.strerror}") from None
    if not empty:
        raise argparse.ArgumentTypeError(f"{text} is not empty")
    return path


def _number(text: str, kind: Callable[[str], float], what: str) -> float:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {what}, not {text!r}") from None
