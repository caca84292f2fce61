"""What a look costs is mostly what it imports: nothing heavy, and nothing of other commands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "pydantic", "requests", "memray", "PIL", "psutil", "typer", "dotenv", "soak"}
PROGRAM = """
import sys
from amidiag.cli.main import main
shown, sys.stdout = sys.stdout, open("/dev/null", "w")
main(sys.argv[1:])
print(*sys.modules, file=shown)
"""


def imported(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        ["fds", "{pid}", "--json"],
        ["fds", "{pid}", "--json", "--no-peers"],
        ["fds", "{pid}"],
        ["fds", "{pid}", "--tree"],
        ["shm", "{pid}", "--json"],
        ["shm", "{pid}"],
        ["--help"],
        ["fds", "--help"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_looking_from_outside_imports_nothing_heavy(words: list[str]) -> None:
    modules = imported(*(word.format(pid=os.getpid()) for word in words))
    assert "amidiag.cli.main" in modules
    assert not {name.partition(".")[0] for name in modules} & HEAVY
    assert not [name for name in modules if name.startswith(("amidiag.soak", "worker"))]


def test_json_does_without_what_draws_tables() -> None:
    pid = str(os.getpid())
    assert "rich" not in imported("fds", pid, "--json")
    assert "rich" not in imported("shm", pid, "--json")


def test_counting_knows_nothing_of_groups_and_other_commands() -> None:
    modules = imported("fds", str(os.getpid()), "--json", "--no-peers")
    assert not modules & {"amidiag.procfs.fd_groups", "amidiag.cli.trace", "amidiag.cli.soak", "pathlib"}
