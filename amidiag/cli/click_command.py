"""From a command that is a plain function (see options.py) to a click command."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import click

from amidiag.cli.options import Argument, Option

_NUMBERS: dict[type, tuple[Any, Any]] = {
    int: (click.INT, click.IntRange),
    float: (click.FLOAT, click.FloatRange),
}


class Command(click.Command):
    """A command whose help names its arguments with what they mean, which click leaves to the text."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the arguments, then the options."""
        rows = [
            (p.make_metavar(ctx), f"{p.meaning or ''}{'  [required]' if p.required else ''}".strip())
            for p in self.params
            if isinstance(p, _Argument)
        ]
        if rows:
            with formatter.section("Arguments"):
                formatter.write_dl(rows)
        super().format_options(ctx, formatter)


class _Argument(click.Argument):
    def __init__(self, *args: Any, meaning: str | None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.meaning = meaning


def make_command(
    function: Callable[..., int], name: str, epilog: str, settings: dict[str, Any] | None = None
) -> click.Command:
    """The click command that calls `function`, whose docstring is its help."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        _parameter(parameter, *get_args(hints[parameter.name]))
        for parameter in inspect.signature(function).parameters.values()
    ]
    return Command(
        name,
        callback=function,
        params=parameters,
        help=inspect.cleandoc(function.__doc__ or ""),
        epilog=epilog,
        context_settings=settings,
    )


def _parameter(parameter: inspect.Parameter, hint: Any, said: Option) -> click.Parameter:
    required = parameter.default is inspect.Parameter.empty
    default = None if required else parameter.default
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
    several = get_origin(hint) is list
    (kind,) = get_args(hint) if several else (hint,)
    common: dict[str, Any] = {
        "type": _type(kind, said),
        "required": required,
        "metavar": said.metavar,
        "callback": _callback(kind, said, default, several=several),
        "is_eager": said.is_eager,
    }
    if not (several or required):
        common["default"] = default.value if isinstance(default, Enum) else default
    if isinstance(said, Argument):
        return _Argument([parameter.name], meaning=said.help, nargs=-1 if several else 1, **common)
    return click.Option(
        [parameter.name, *(said.names or (f"--{parameter.name.replace('_', '-')}",))],
        help=said.help,
        is_flag=kind is bool,
        multiple=several,
        show_default=kind is not bool,
        **common,
    )


def _type(kind: Any, said: Option) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if issubclass(kind, Enum):
        return click.Choice([member.value for member in kind])
    if issubclass(kind, os.PathLike):
        return click.Path(path_type=kind)
    if kind in _NUMBERS:
        plain, within = _NUMBERS[kind]
        low, high = said.range
        return plain if said.range == (None, None) else within(low, high)
    return click.types.convert_type(kind)


def _callback(
    kind: Any, said: Option, default: Any, *, several: bool
) -> Callable[[click.Context, click.Parameter, Any], Any] | None:
    """From what click gives to what the function takes."""

    def convert(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        if several:
            value = list(value) or default
        elif isinstance(kind, type) and issubclass(kind, Enum) and value is not None:
            value = kind(value)
        return said.callback(value) if said.callback else value

    return convert
