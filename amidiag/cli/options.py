"""A command is a plain function: what the command line has to know of its parameters stands in their annotations.

    def command(pid: Annotated[int, Argument(min=1)], tree: Annotated[bool, Option("--tree")] = False) -> int

As in typer, whose import costs 15 ms more than that of click: as much as `fds` needs for all its reading.
`click_command.py` makes a click command of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


class Option:
    """An option: its names (else that of the parameter), its help, the limits of a number, a last check."""

    def __init__(
        self,
        *names: str,
        help: str | None = None,
        metavar: str | None = None,
        min: float | None = None,
        max: float | None = None,
        callback: Callable[[Any], Any] | None = None,
        is_eager: bool = False,
    ) -> None:
        self.names = names
        self.help = help
        self.metavar = metavar
        self.range = (min, max)
        self.callback = callback
        self.is_eager = is_eager


class Argument(Option):
    """What stands for itself on the command line. A list takes all that is left."""


def bad_parameter(text: str) -> click.BadParameter:
    """The error of a command whose parameters cannot be meant. Most calls have none, and do without click."""
    import click

    return click.BadParameter(text)
