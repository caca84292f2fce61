"""What every command shares at the door: the JSON flag, the envelope, errors as one line, both outputs."""

from __future__ import annotations

import os
import sys
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO, cast

from amidiag.cli.options import Option
from amidiag.model import Envelope, ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

Json = Annotated[bool, Option("--json", help="Print one JSON object (`amidiag schema` describes it).")]


class CommandError(Exception):
    """A command that cannot go on: one line for the user, and the exit code."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Output:
    """Standard output or standard error, as a stream that a command may write to without a care.

    Where the reader has left (`… | head`) the rest goes nowhere and the command keeps its own exit code.
    What else stops standard output, a full disk say, is a CommandError; standard error is only a
    commentary, and there nobody could be told.
    """

    def __init__(self, stream: TextIO | None, name: str | None) -> None:
        # None is what Python gives where the descriptor was closed by the caller (`>&-`).
        self._stream = stream
        self._name = name
        self.encoding = "utf-8" if stream is None else stream.encoding

    def write(self, text: str) -> int:
        """Write, and flush: what fails must fail here and not when the interpreter ends."""
        try:
            if self._stream is not None:
                self._stream.write(text)
                self._stream.flush()
        except OSError as e:
            self._discard()
            if self._name is not None and not isinstance(e, BrokenPipeError):
                raise CommandError(
                    f"cannot write to {self._name}: {e.strerror}", ExitCode.CANNOT_OBSERVE
                ) from e
        return len(text)

    def flush(self) -> None:
        """What is still buffered, by whoever wrote it."""
        self.write("")

    def isatty(self) -> bool:
        """Whether a person is looking."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor. Raises OSError where there is none."""
        if self._stream is None:
            raise OSError("closed")
        return self._stream.fileno()

    def _discard(self) -> None:
        """Let the rest go nowhere: else the interpreter complains of it at its end, with exit code 120."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def stdout() -> Output:
    """For results."""
    return Output(sys.stdout, "standard output")


def stderr() -> Output:
    """For progress and errors."""
    return Output(sys.stderr, None)


def envelope(command: str, exit_code: int, **parts: Any) -> Envelope:
    """An envelope for this host and this moment."""
    from amidiag.report.as_json import now

    return Envelope(
        command=command, generated_at=now(), host=os.uname().nodename, exit_code=exit_code, **parts
    )


def print_json(report: Envelope) -> None:
    """The envelope on standard output, and nothing else there."""
    from amidiag.report.as_json import envelope_text

    stdout().write(envelope_text(report) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write a file that the user has named, whole or not at all. Raises CommandError where it cannot be."""
    from amidiag.diagnosis.whole_file import write_whole

    try:
        write_whole(path, text)
    except OSError as e:
        raise CommandError(f"cannot write {path}: {e.strerror}", ExitCode.USAGE) from e


def out() -> Console:
    """The console for tables: standard output, colours only on a terminal, NO_COLOR honoured."""
    from rich.console import Console

    stream = cast(IO[str], stdout())
    # Names of arms and processes are text: square brackets in them are no markup.
    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        # Into a file or a pipe nobody wants tables folded at 80 columns.
        console.width = 120
    return console


def err() -> Console:
    """The console for progress and warnings: standard error."""
    from rich.console import Console

    return Console(file=cast(IO[str], stderr()), highlight=False, markup=False, emoji=False)


def report_error(command: str, text: str, exit_code: int, *, as_json: bool, shown: str | None = None) -> int:
    """One clear line on standard error (or `shown`); with `--json` the envelope too, `text` in its notes."""
    stderr().write(f"amidiag: {text}\n" if shown is None else shown)
    if as_json:
        try:
            print_json(envelope(command, exit_code, notes=(text,)))
        except CommandError as unwritable:
            stderr().write(f"amidiag: {unwritable}\n")
    return exit_code
