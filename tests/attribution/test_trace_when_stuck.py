"""`amidiag trace` of programs that cannot answer: at EMFILE, hung, holding the GIL, stopped, killed.

How long it takes is measured by `benchmarks/attribution.py --states`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from open_things import wait_until_quiet
from runs import Run, started

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
TYPE_OF = {
    "leak_pipes": "pipe",
    "make_pipes": "pipe",
    "make_sockets": "socket",
    "make_events": "eventfd",
    "make_segments": "shm",
}


def trace(directory: Path, pid: int, *words: str) -> Any:
    """The JSON of `amidiag trace PID`."""
    done = subprocess.run(
        [AMIDIAG, "trace", str(pid), "--json", *words],
        env={**os.environ, "AMIDIAG_RUNTIME_DIR": str(directory / "run")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_function(answer: Any) -> dict[str, int]:
    """How much of what each function of programs/stuck.py has made is open, of its own type."""
    found = {}
    for row in answer["data"]["rows"]:
        function = row["group"].rpartition(" ")[2]
        if re.search(r"/stuck\.py:\d+ ", row["group"]) and function in TYPE_OF:
            found[function] = row["by_type"][TYPE_OF[function]]
    return found


@pytest.fixture
def stuck(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Run, dict[str, int]]]:
    """A program in the state of the test's parameter, and what it says that it has opened."""
    with started(tmp_path, "stuck", request.param, witness=False) as run:
        said = json.loads(run.word())
        wait_until_quiet(run.pid)
        yield run, said


@pytest.mark.parametrize("stuck", ["at_limit"], indirect=True)
def test_at_emfile_every_leaked_pipe_is_attributed(stuck: tuple[Run, dict[str, int]], tmp_path: Path) -> None:
    # GIVEN a program that has leaked pipes until there was no FD left
    run, said = stuck
    open_now = len(os.listdir(f"/proc/{run.pid}/fd"))
    # WHEN it is traced
    answer = trace(tmp_path, run.pid)
    # THEN all of them are attributed, and only what it was started with was not seen
    assert by_function(answer) == said
    assert said["leak_pipes"] >= open_now - 4
    assert sum(answer["data"]["not_seen"]["by_type"].values()) == open_now - said["leak_pipes"]
    # The four failures are counted, and nothing was dropped or went wrong
    (books,) = answer["data"]["processes"]
    assert books["emfile"] == 4 and books["emfile_at"] is not None
    assert (books["errors"], books["no_slot"], books["no_site"], books["torn"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("stuck", ["loader", "queue", "gil", "stopped"], indirect=True)
def test_a_program_that_hangs_is_traced(stuck: tuple[Run, dict[str, int]], tmp_path: Path) -> None:
    # GIVEN a program that hangs
    run, said = stuck
    # WHEN it is traced, alone and with its loader process
    for words in ((), ("--tree",)):
        answer = trace(tmp_path, run.pid, *words)
        # THEN what each of its functions has opened is there, in numbers
        assert answer["data"]["alive"] is True
        if not words:
            assert by_function(answer) == said


@pytest.mark.parametrize("stuck", ["gil"], indirect=True)
def test_the_gil_is_held_indeed(stuck: tuple[Run, dict[str, int]]) -> None:
    run, _ = stuck
    assert run.process.stdout
    assert select.select([run.process.stdout], [], [], 1.0)[0] == []


@pytest.mark.parametrize("stuck", ["at_limit", "waiting"], indirect=True)
def test_what_a_killed_program_has_left_is_told(stuck: tuple[Run, dict[str, int]], tmp_path: Path) -> None:
    # GIVEN a program that was killed
    run, said = stuck
    os.kill(run.pid, signal.SIGKILL)
    run.process.wait()
    # WHEN its PID is traced
    answer = trace(tmp_path, run.pid)
    # THEN what it had made is told by its table: a pipe once, not by its ends, and a segment once
    assert answer["data"]["alive"] is False
    once = {name: n // 2 if TYPE_OF[name] in ("pipe", "shm") else n for name, n in said.items()}
    assert by_function(answer) == once
    assert answer["data"]["not_seen"] is None
