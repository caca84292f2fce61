"""`amidiag run`."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import click

from amidiag.cli.door import CommandError, stderr, stdout
from amidiag.cli.options import Argument

NAME = "run"
EXAMPLES = """\b
Examples:
  amidiag run python train.py --epochs 3
  amidiag run train.py                    a .py file or a module: by the first python3 of PATH
  amidiag run -m http.server 8000
  amidiag run torchrun --nproc-per-node 2 train.py
  amidiag run -- gunicorn app:app
  amidiag run sh -c 'ulimit -n 1024; exec python train.py'
Read it with `amidiag trace PID`. What follows COMMAND is the program's own, --json and --help too.
The command replaces amidiag: same PID, and its output, signals and exit code are its own.
Python started with -I, -E or -S is not traced: it takes nothing from its environment.
Exit codes: the program's own; 127 no such program, 126 it cannot be executed, as the shell,
env and nohup have it; 2 no COMMAND, or an option that run does not have."""
# What follows the command's name belongs to the command.
SETTINGS = {"allow_interspersed_args": False, "ignore_unknown_options": True}

_NOT_FOUND = 127
_CANNOT_EXECUTE = 126
# What Python sets to "ignored" when it starts (PyOS_setsig in signalmodule.c), and exec would pass on.
# What it had inherited before is not known any more; ignored by a caller is rare, default is what a shell gives.
_SET_BY_PYTHON = tuple(
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ") if hasattr(signal, name)
)


def command(
    words: Annotated[
        list[str],
        Argument(metavar="COMMAND...", help="A program, a .py file or `-m module`, and its arguments."),
    ],
) -> int:
    """Run any Python program with tracing on, and in every Python process that it starts."""
    from amidiag.target.inherit import environment

    env = environment(_given_environment())
    path = os.get_exec_path(env)
    words = _with_python(words, path)
    place = _find(words[0], path)
    stdout().flush()
    stderr().flush()
    try:
        with _signals_as_from_a_shell():
            _execute(place, words, env)
    except OSError as e:
        raise CommandError(*_refused(place, e)) from e


def _given_environment() -> dict[str, str]:
    """The environment as amidiag was started with it.

    In the C locale Python itself sets LC_CTYPE when it starts (PEP 538), and a program that is no Python
    would behave otherwise with it.
    """
    env = dict(os.environ)
    with contextlib.suppress(OSError):
        given = Path("/proc/self/environ").read_bytes().split(b"\0")
        env.pop("LC_CTYPE", None)
        for entry in given:
            if entry.startswith(b"LC_CTYPE="):
                env["LC_CTYPE"] = os.fsdecode(entry.partition(b"=")[2])
    return env


def _with_python(words: list[str], path: list[str]) -> list[str]:
    """The words to execute: `-m module` and a `.py` file that is no program by itself are given to Python."""
    first = words[0]
    if first.startswith("-") and first != "-m":
        raise click.NoSuchOption(first)
    script = first.endswith(".py") and Path(first).is_file() and not _runs_by_itself(first)
    return [_python(path), *words] if script or first == "-m" else words


def _runs_by_itself(script: str) -> bool:
    """Whether a shell would run it: named by a path, executable, and naming its interpreter."""
    if "/" not in script or not os.access(script, os.X_OK):
        return False
    try:
        with Path(script).open("rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return False  # Python says what is wrong with it.


def _python(path: list[str]) -> str:
    """The first `python3` or `python` on PATH, which is an activated environment's; else amidiag's own."""
    for directory in path:
        for name in ("python3", "python"):
            place = f"{directory or '.'}/{name}"
            if _is_program(place):
                return place
    return sys.executable


def _find(name: str, path: list[str]) -> str:
    """Where the program lies, looked for as execvp(3) does.

    Raises:
        CommandError: it is nowhere (127), or is not executable (126).
    """
    # An empty entry of PATH is the current directory.
    places = [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in path]
    for place in places:
        if _is_program(place):
            return place
    there = [place for place in places if Path(place).exists()]
    if there:
        what = "is a directory" if Path(there[0]).is_dir() else "is not executable"
        raise CommandError(f"{there[0]} {what}", _CANNOT_EXECUTE)
    where = "" if "/" in name else " on PATH"
    raise CommandError(f"there is no program {name!r}{where}", _NOT_FOUND)


def _is_program(place: str) -> bool:
    return Path(place).is_file() and os.access(place, os.X_OK)


@contextlib.contextmanager
def _signals_as_from_a_shell() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in _SET_BY_PYTHON}
    try:
        yield
    finally:
        # Reached only where the program did not start.
        for number, handler in before.items():
            signal.signal(number, handler)


def _execute(place: str, words: list[str], env: Mapping[str, str]) -> NoReturn:
    """Become the program. Descriptors that Python opened close by themselves: they have O_CLOEXEC (PEP 446)."""
    try:
        os.execve(place, words, env)
    except OSError as e:
        if e.errno != errno.ENOEXEC:
            raise
    # A text that names no interpreter is a shell script, as execvp(3) has it.
    os.execve("/bin/sh", ["/bin/sh", place, *words[1:]], env)


def _refused(place: str, error: OSError) -> tuple[str, int]:
    if error.errno == errno.ENOENT:
        return f"{place} cannot be executed: the interpreter that it names does not exist", _NOT_FOUND
    return f"{place} cannot be executed: {error.strerror}", _CANNOT_EXECUTE
