"""The `amidiag` program: its commands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import functools
import importlib
import io
import os
import sys
from collections.abc import Callable
from typing import Any

import click

from amidiag.cli.door import CommandError, report_error, stderr, stdout
from amidiag.cli.options import make_command
from amidiag.model import ExitCode
from amidiag.procfs.errors import CannotObserve

_EPILOG = """\b
Exit codes: 0 nothing wrong found, 1 a finding, 2 usage, 3 cannot observe, 4 undecided.
Start here: amidiag soak quickstart"""

_INTERRUPTED = 130
_BUG = 70  # EX_SOFTWARE of sysexits.h; 1 would say "a finding"
_CANNOT = ExitCode.CANNOT_OBSERVE
_COMMANDS = ("fds", "shm", "trace", "run", "rate", "soak", "gate", "schema")
"""In the order of the help; each is a module of this name beside this one."""
_STARTING = ("soak", "gate")
_TAKES_WORDS = "run"  # What follows it belongs to the program that is run.


class _Commands(click.Group):
    """Commands that are imported when they are called: all together they cost as much as reading 20 FDs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All, in the order of the help."""
        return [*_COMMANDS, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One, by its name."""
        return _load(cmd_name) if cmd_name in _COMMANDS else super().get_command(ctx, cmd_name)

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
    module = importlib.import_module(f"amidiag.cli.{name}")
    interrupted = "interrupted; what was started has been ended" if name in _STARTING else "interrupted"
    function = _interruptible(module.command, interrupted)
    return make_command(function, name, module.EXAMPLES, getattr(module, "SETTINGS", None))


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


def _interruptible(command: Callable[..., int], interrupted: str) -> Callable[..., int]:
    """Turn what click would end silently, with exit code 1, into our own errors: Ctrl-C and EPIPE."""

    @functools.wraps(command)
    def run_command(*args: Any, **options: Any) -> int:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:
            raise CommandError(interrupted, _INTERRUPTED) from None
        except BrokenPipeError as e:
            # Not the reader of our output, which is no error (`door.Output`): something else has gone.
            raise CommandError(f"the other end of a pipe or socket is gone: {e}", _CANNOT) from e

    return run_command


def main(arguments: list[str]) -> int:
    """Run one command in this process and return its exit code."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    as_json = "--json" in arguments and command != _TAKES_WORDS
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
    # Whatever it is: Python would end with exit code 1, which says "a finding" to a script or a CI job.
    except (Exception, KeyboardInterrupt) as e:  # noqa: BLE001
        text, code = _explain(e, command)
        return report_error(command, text, code, as_json=as_json)


def _explain(error: BaseException, command: str) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    match error:
        case CommandError():
            text, code = str(error), error.exit_code
        case CannotObserve():
            text, code = str(error), _CANNOT
        case click.ClickException():
            text, code = error.format_message(), ExitCode.USAGE
        case KeyboardInterrupt() | click.Abort():
            text, code = "interrupted", _INTERRUPTED
        case ModuleNotFoundError() if error.name and error.name.split(".")[0] not in ("amidiag", "worker"):
            missing = f"{command} needs {error.name}, which is not installed"
            text, code = f"{missing}: pip install 'amidiag[worker,soak]'", ExitCode.USAGE
        case OSError():
            # The system's own text, which names the file where there is one.
            _debug(error)
            text, code = f"{command or 'amidiag'} failed: {error}", _CANNOT
        case _ if _is_dead_server(error):
            text, code = str(error), _CANNOT
        case _:
            _debug(error)
            hint = "" if _debugging() else "; run it again with AMIDIAG_DEBUG=1 for the traceback"
            text, code = f"this is a bug in amidiag: {type(error).__name__}: {error}{hint}", _BUG
    return text, code


def _is_dead_server(error: BaseException) -> bool:
    # Without the soak there is none, and `amidiag fds` must not pay for its import.
    if "amidiag.soak.antenna" not in sys.modules:
        return False
    from amidiag.soak.antenna import AntennaServerError

    return isinstance(error, AntennaServerError)


def _debugging() -> bool:
    return os.environ.get("AMIDIAG_DEBUG", "") not in ("", "0")


def _debug(error: BaseException) -> None:
    if _debugging():
        import traceback

        stderr().write("".join(traceback.format_exception(error)))


def run() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a process is any bytes, and the terminal may know ASCII only.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = main(sys.argv[1:])
    try:
        stdout().flush()
    except CommandError as e:
        # What went before may be this very failure, and has then been said.
        code = code or report_error("", str(e), e.exit_code, as_json=False)
    stderr().flush()
    sys.exit(code)


if __name__ == "__main__":
    run()
