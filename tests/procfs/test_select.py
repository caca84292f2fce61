"""Finding the processes that are meant: by name, and the AMI workers of this host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from procfs_targets import Spawn

from amidiag.model import Identity
from amidiag.procfs.ami_command import is_ami_worker
from amidiag.procfs.identity import identify
from amidiag.procfs.processes import read_cmdline
from amidiag.procfs.select import ami_workers, by_name, outermost

SLEEP = "import time, os; os.write(1, b'ready\\n'); time.sleep(1000)"
FORKS = "import time, os; os.fork() and os.write(1, b'ready\\n'); time.sleep(1000)"
# A program that runs another and waits for it, with the other's words in its own command line.
WAITS = "import subprocess, sys; sys.exit(subprocess.run(sys.argv[1:]).returncode)"
# One that runs the other in its own process, as a profiler.
WITHIN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"


@pytest.fixture
def ami(tmp_path: Path) -> Callable[[str], str]:
    """Makes a program that is called `ami`."""

    def make(code: str) -> str:
        (tmp_path / "ami").write_text(f"#!{sys.executable}\n{code}\n")
        (tmp_path / "ami").chmod(0o755)
        return str(tmp_path / "ami")

    return make


def ready(process: subprocess.Popen[bytes]) -> int:
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    return process.pid


@pytest.mark.parametrize(
    "words",
    [
        ["/venv/bin/python3.11", "/venv/bin/ami", "worker", "run"],
        ["python", "-u", "-X", "dev", "/venv/bin/ami", "worker"],
        ["pypy3", "/venv/bin/ami", "worker", "--pipeline", "moths"],
        ["/opt/ami", "worker", "run", "--once"],
        ["python", "-m", "worker.cli", "worker", "run"],
        [
            "python",
            "-m",
            "amidiag.soak.faults.launcher",
            "--arm",
            "x",
            "--",
            "/venv/bin/ami",
            "worker",
            "run",
        ],
        ["python", "-m", "memray", "run", "-o", "x.bin", "/venv/bin/ami", "worker", "run"],
    ],
)
def test_commands_that_are_a_worker(words: list[str]) -> None:
    assert is_ami_worker(words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["python"],
        ["python", "/venv/bin/ami", "gui"],
        ["python", "/venv/bin/ami", "worker", "settings"],
        ["/opt/ami", "worker", "tune"],
        ["timeout", "60", "ami", "worker", "run"],
        ["docker", "run", "image", "ami", "worker", "run"],
        ["bash", "-c", "ami worker run"],
        ["tail", "-f", "ami", "worker"],
        ["python", "-c", "from multiprocessing.spawn import spawn_main; spawn_main(7)", "--multiprocessing-fork"],
    ],
)  # fmt: skip
def test_commands_that_are_none(words: list[str]) -> None:
    assert not is_ami_worker(words)


def test_a_worker_is_found_without_its_forked_children(spawn: Spawn, ami: Callable[[str], str]) -> None:
    worker = spawn([ami(FORKS), "worker", "run"], stdout=subprocess.PIPE)
    pid = ready(worker)
    assert pid in [found.pid for found in ami_workers()]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    assert int(children[0]) not in [found.pid for found in ami_workers()]
    worker.kill()
    worker.wait()
    assert pid not in [found.pid for found in ami_workers()]


@pytest.mark.parametrize("wrapper", [["timeout", "1000"], [sys.executable, "-c", WAITS]])
def test_what_waits_for_a_worker_is_none(spawn: Spawn, ami: Callable[[str], str], wrapper: list[str]) -> None:
    waiting = spawn([*wrapper, ami(SLEEP), "worker", "run"], stdout=subprocess.PIPE)
    ready(waiting)
    child = int(Path(f"/proc/{waiting.pid}/task/{waiting.pid}/children").read_text())
    found = {worker.pid for worker in ami_workers()}
    assert child in found
    assert waiting.pid not in found


def test_a_worker_within_another_program_is_one(spawn: Spawn, ami: Callable[[str], str]) -> None:
    pid = ready(spawn([sys.executable, "-c", WITHIN, ami(SLEEP), "worker", "run"], stdout=subprocess.PIPE))
    assert identify(pid) in ami_workers()


def test_a_status_page_makes_a_worker(spawn: Spawn) -> None:
    # GIVEN a program without the words
    pid = ready(spawn([sys.executable, "-c", SLEEP], stdout=subprocess.PIPE))
    identity = identify(pid)
    assert identity not in ami_workers()

    # THEN it is found by what tells of pages (tests/status has the real one, of a room above)
    def speaks(asked: Identity) -> str | None:
        return "a page" if asked == identity else None

    assert identity in ami_workers(speaks)


def test_by_name_and_by_command_line(spawn: Spawn) -> None:
    word = uuid.uuid4().hex
    first, second = (spawn([sys.executable, "-c", SLEEP, word], stdout=subprocess.PIPE) for _ in range(2))
    expected = sorted((identify(ready(first)), identify(ready(second))), key=lambda found: found.pid)
    assert by_name(word) == expected
    assert by_name(f"{word[:8]}.*{word[-8:]}$") == expected
    assert by_name(f"^{word}") == []
    assert set(expected) <= set(by_name(r"^.*python"))
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert [found.pid for found in by_name(word)] == [second.pid]


def test_the_name_of_a_process_counts(spawn: Spawn, tmp_path: Path) -> None:
    # GIVEN a program whose file has the name and whose command line has not
    name = uuid.uuid4().hex[:15]
    (tmp_path / name).symlink_to("/bin/sleep")
    target = spawn(["other", "1000"], executable=str(tmp_path / name))
    assert by_name(f"^{name}$") == [identify(target.pid)]


def test_neither_the_reader_nor_its_callers_are_meant() -> None:
    # GIVEN a shell that has the pattern in its command line because it starts the reader with it
    word = uuid.uuid4().hex
    code = "import sys; from amidiag.procfs.select import by_name; print(by_name(sys.argv[1]))"
    shell = ["sh", "-c", f"'{sys.executable}' -c '{code}' {word}; true"]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_kernel_threads_are_not_meant() -> None:
    for found in by_name("kworker|ksoftirqd|kthreadd"):
        assert read_cmdline(found.pid)


def test_a_pattern_that_is_none() -> None:
    with pytest.raises(re.error):
        by_name("[")


def test_no_tree_is_chosen_twice(spawn: Spawn) -> None:
    pid = ready(spawn([sys.executable, "-c", FORKS], stdout=subprocess.PIPE))
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    assert outermost([identify(child), identify(pid)]) == [identify(pid)]
    assert outermost([identify(child)]) == [identify(child)]
