"""The `amidiag` program: the one place where errors become a line and an exit code."""

from __future__ import annotations

import io
import os
import sys

from amidiag.cli.commands import INTERRUPTED, TAKES_WORDS, function_of
from amidiag.cli.door import CommandError, report_error, stderr, stdout
from amidiag.cli.plain_words import read_plain
from amidiag.model import ExitCode
from amidiag.procfs.errors import CannotObserve

_BUG = 70  # EX_SOFTWARE of sysexits.h; 1 would say "a finding"
_CANNOT = ExitCode.CANNOT_OBSERVE


def main(arguments: list[str]) -> int:
    """Run one command in this process and return its exit code."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    as_json = "--json" in arguments and command != TAKES_WORDS
    try:
        plain = read_plain(arguments)
        if plain is not None:
            return function_of(command)(**plain)
        from amidiag.cli.click_app import run_by_click

        return run_by_click(arguments, command, as_json=as_json)
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
        case KeyboardInterrupt():
            text, code = "interrupted", INTERRUPTED
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
