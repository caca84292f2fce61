"""What is read without click is understood as click understands it, and whatever else there is goes to click."""

from __future__ import annotations

import inspect
import itertools
import os
import subprocess
import sys
from typing import Any

import click
import pytest

from amidiag.cli.click_command import make_command
from amidiag.cli.commands import COMMANDS, function_of, module_of
from amidiag.cli.plain_words import read_plain

WORDS = ("1", "4711", "007", "999999999", "--tree", "--json", "--no-peers")


def by_click(command: str, words: list[str]) -> dict[str, Any] | None:
    """What the function is called with; None where click calls it an error."""
    function, seen = function_of(command), {}

    def record(**given: Any) -> int:
        seen.update(given)
        return 0

    record.__signature__ = inspect.signature(function)
    record.__annotations__ = function.__annotations__
    record.__wrapped__ = function
    record.__doc__ = ""
    try:
        make_command(record, command, "").main(words, standalone_mode=False)
    except click.UsageError:
        return None
    return seen


def with_defaults(command: str, given: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(module_of(command).command).bind(**given)
    bound.apply_defaults()
    return dict(bound.arguments)


@pytest.mark.parametrize("command", ["fds", "shm"])
def test_it_understands_what_click_understands(command: str) -> None:
    read = 0
    for length in range(4):
        for words in itertools.product(WORDS, repeat=length):
            plain = read_plain([command, *words])
            if plain is not None:
                read += 1
                assert with_defaults(command, plain) == by_click(command, list(words)), words
    assert read > (399 if command == "fds" else 40)


@pytest.mark.parametrize(
    "words",
    [
        ["fds", "4711"],
        ["fds", "4711", "--json"],
        ["fds", "--json", "4711", "4712", "--tree"],
        ["fds", "4711", "--no-peers"],
        ["fds"],
        ["shm"],
        ["shm", "4711", "--tree", "--json"],
    ],
    ids=" ".join,
)
def test_the_usual_calls_do_without_click(words: list[str]) -> None:
    assert read_plain(words) is not None


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--version"],
        ["fd"],
        ["--json", "fds"],
        *([command, *words] for command in ("fds", "shm") for words in (["--help"], ["4711", "-h"])),
        ["fds", "0"],
        ["fds", "-1"],
        ["fds", "+1"],
        ["fds", "1_000"],
        ["fds", " 1"],
        ["fds", ""],
        ["fds", "٣"],
        ["fds", "9" * 10],
        ["fds", "9" * 5000],
        ["fds", "--", "1"],
        ["fds", "1", "--tre"],
        ["fds", "1", "--tree=1"],
        ["fds", "1", "--reap"],
        ["fds", "--name", "1"],
        ["fds", "1", "--save", "2"],
        ["fds", "1", "--since", "--json"],
        ["shm", "1", "2"],
        ["shm", "--tree"],
        ["shm", "--reap"],
        ["shm", "1", "--no-peers"],
        ["shm", "--older-than", "5"],
        *([command] for command in COMMANDS if command not in ("fds", "shm")),
        ["rate", "1", "--json"],
        ["run", "fds", "1"],
    ],
    ids=lambda words: " ".join(words)[:40] or "nothing",
)
def test_all_else_is_for_click(words: list[str]) -> None:
    assert read_plain(words) is None


def test_completion_is_for_click(monkeypatch) -> None:
    monkeypatch.setenv("_AMIDIAG_COMPLETE", "bash_complete")
    assert read_plain(["fds", "1"]) is None


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "amidiag", *words], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_what_goes_wrong_is_said_alike() -> None:
    # `--` is click's, and means the same.
    gone = str(2**22 + 1)
    assert run("fds", gone) == run("fds", "--", gone)
    assert run("shm", gone) == run("shm", "--", gone)
    assert run("fds", gone)[0] == 3


def test_click_is_not_imported() -> None:
    code = (
        "import sys; from amidiag.cli.main import main; main(sys.argv[1:]);sys.exit('click' in sys.modules)"
    )
    for words in (["fds", str(os.getpid()), "--json"], ["fds", str(os.getpid())], ["shm", "--json"]):
        done = subprocess.run([sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, check=False)
        assert done.returncode == 0
