"""The `amidiag` program: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import click
import typer

from amidiag.cli import fds, gate, rate, schema, soak
from amidiag.cli.door import CommandError, report_error
from amidiag.model import ExitCode
from amidiag.procfs.errors import CannotObserve

_EPILOG = """\b
Exit codes: 0 nothing wrong found, 1 a finding, 2 usage, 3 cannot observe, 4 undecided.
Start here: amidiag soak quickstart"""

app = typer.Typer(
    name="amidiag",
    help="Finds, proves and fixes resource leaks in long-running PyTorch workers.",
    epilog=_EPILOG,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
_INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"amidiag {version('amidiag')}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Finds, proves and fixes resource leaks in long-running PyTorch workers."""


def _interruptible(command: Callable[..., int]) -> Callable[..., int]:
    """Turn Ctrl-C into our own error before typer turns it into a silent exit."""

    @functools.wraps(command)
    def run_command(*args: Any, **options: Any) -> int:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:
            raise CommandError("interrupted; what was started has been ended", _INTERRUPTED) from None

    return run_command


for _module in (fds, rate, soak, gate, schema):
    app.command(_module.NAME, epilog=_module.EXAMPLES)(_interruptible(_module.command))


def main(arguments: list[str]) -> int:
    """Run one command in this process and return its exit code."""
    as_json = "--json" in arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except click.UsageError as e:
        e.show()
        code, text = ExitCode.USAGE, None
    except CannotObserve as e:
        code, text = ExitCode.CANNOT_OBSERVE, str(e)
    except CommandError as e:
        code, text = e.exit_code, str(e)
    except ModuleNotFoundError as e:
        if e.name is None or e.name.split(".")[0] in ("amidiag", "worker"):
            raise
        text = f"{command} needs {e.name}, which is not installed: pip install 'amidiag[worker,soak]'"
        code = ExitCode.USAGE
    except BrokenPipeError:
        # `amidiag … | head`: the reader has had enough. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, text = ExitCode.CLEAN, None
    return code if text is None else report_error(command, text, code, as_json=as_json)


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
