"""The `amidiag` program: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys

import click
import typer

from amidiag.cli import fds, gate, rate, schema, soak
from amidiag.cli.door import CommandError, report_error
from amidiag.model import ExitCode
from amidiag.procfs import CannotObserve

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
for _module in (fds, rate, soak, gate, schema):
    app.command(_module.NAME, epilog=_module.EXAMPLES)(_module.command)

_INTERRUPTED = 130


def main(arguments: list[str]) -> int:
    """Run one command in this process and return its exit code."""
    as_json = "--json" in arguments
    command = next((word for word in arguments if not word.startswith("-")), "")
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        return ExitCode.USAGE
    except click.UsageError as e:
        e.show()
        return ExitCode.USAGE
    except CannotObserve as e:
        return report_error(command, str(e), ExitCode.CANNOT_OBSERVE, as_json=as_json)
    except CommandError as e:
        return report_error(command, str(e), e.exit_code, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        return report_error(
            command, "interrupted; what was started has been ended", _INTERRUPTED, as_json=as_json
        )
    except BrokenPipeError:
        # `amidiag … | head`: the reader has had enough. Keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.CLEAN


def run() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
