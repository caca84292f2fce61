"""What every command shares at the door: the JSON flag, the envelope, errors as one line, consoles."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from amidiag.model import Envelope, ExitCode

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object (`amidiag schema` describes it).")]


class CommandError(Exception):
    """A command that cannot go on: one line for the user, and the exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def envelope(command: str, exit_code: int, **parts: Any) -> Envelope:
    """An envelope for this host and this moment."""
    from amidiag.report.as_json import now

    return Envelope(
        command=command, generated_at=now(), host=socket.gethostname(), exit_code=exit_code, **parts
    )


def print_json(report: Envelope) -> None:
    """The envelope on standard output, and nothing else there."""
    from amidiag.report.as_json import envelope_text

    sys.stdout.write(envelope_text(report) + "\n")
    sys.stdout.flush()


def out() -> Console:
    """The console for tables: standard output, colours only on a terminal, NO_COLOR honoured."""
    from rich.console import Console

    console = Console(highlight=False)
    # Into a file or a pipe nobody wants tables folded at 80 columns.
    return console if console.is_terminal else Console(highlight=False, width=120)


def err() -> Console:
    """The console for progress and warnings: standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def report_error(command: str, text: str, exit_code: int, *, as_json: bool) -> int:
    """One clear line on standard error; with `--json` the envelope too, its note carrying the same text."""
    sys.stderr.write(f"amidiag: {text}\n")
    if as_json:
        print_json(replace(envelope(command, exit_code), notes=(text,)))
    return exit_code


def worst(*codes: int) -> int:
    """The exit code of several results: a finding outweighs undecided, undecided outweighs clean."""
    for code in (ExitCode.FINDING, ExitCode.UNDECIDED):
        if code in codes:
            return code
    return ExitCode.CLEAN
