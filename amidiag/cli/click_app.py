"""The command line as click reads it: all of it, with its help, its errors and its completion."""

from __future__ import annotations

import functools
import gc
import io

import click

from amidiag.cli.click_command import make_command
from amidiag.cli.commands import COMMANDS, INTERRUPTED, function_of, module_of
from amidiag.cli.door import CommandError, report_error, stdout
from amidiag.model import ExitCode

_EPILOG = """\b
Exit codes: 0 nothing wrong found, 1 a finding, 2 usage, 3 cannot observe, 4 undecided.
Start here: amidiag soak quickstart"""


class _Commands(click.Group):
    """Commands that are imported when they are called: all together they cost as much as reading 20 FDs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the order of the help."""
        return [*COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One, by its name."""
        return _load(cmd_name) if cmd_name in COMMANDS else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called. Raises click.UsageError, with the nearest name."""
        if self.get_command(ctx, args[0]) is None:
            from difflib import get_close_matches

            for nearest in get_close_matches(args[0], self.list_commands(ctx), n=1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {nearest!r}?")
        return super().resolve_command(ctx, args)


@functools.cache
def _load(name: str) -> click.Command:
    module = module_of(name)
    return make_command(function_of(name), name, module.EXAMPLES, getattr(module, "SETTINGS", None))


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        stdout().write(f"amidiag {version('amidiag')}\n")
        ctx.exit()


@click.group(name="amidiag", cls=_Commands, epilog=_EPILOG, no_args_is_help=True)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version.",
)
def app() -> None:
    """Finds, proves and fixes resource leaks in long-running PyTorch workers."""


def run_by_click(arguments: list[str], command: str, *, as_json: bool) -> int:
    """Run one command and return its exit code, errors of usage said. Raises CommandError for what else click finds."""
    gc.enable()  # See start.py.
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except SystemExit:
        # Not standing alone, click ends the program only where what it prints itself, the help, meets a closed pipe.
        return ExitCode.CLEAN
    except click.UsageError as e:
        with io.StringIO() as shown:
            e.show(file=shown)
            return report_error(
                command, e.format_message(), ExitCode.USAGE, as_json=as_json, shown=shown.getvalue()
            )
    except click.ClickException as e:
        raise CommandError(e.format_message(), ExitCode.USAGE) from e
    except click.Abort as e:
        raise CommandError("interrupted", INTERRUPTED) from e
