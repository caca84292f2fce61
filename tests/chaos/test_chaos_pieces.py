"""The pieces of which bad days are made: plans by seed, restarts, files seen as they come, a full /dev/shm."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amidiag.soak.chaos import day, private_shm
from amidiag.soak.chaos.events import EVENTS
from amidiag.soak.chaos.new_files import NewFiles
from amidiag.soak.chaos.outcome import Outcome
from amidiag.soak.chaos.supervised import Supervised
from amidiag.soak.program import Program, ProgramError

LIMIT_S = 30.0


def eventually(condition: Callable[[], object], tick: Callable[[], object] = lambda: None) -> bool:
    end = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > end:
            return False
        tick()
        time.sleep(0.01)
    return True


def test_a_plan_follows_its_seed_and_brings_each_event_before_any_comes_again() -> None:
    first = day.plan(1, "fork", 600.0)
    assert first == day.plan(1, "fork", 600.0)
    assert first.events != day.plan(2, "fork", 600.0).events
    assert first.events != day.plan(1, "forkserver", 600.0).events
    times, names = zip(*first.events, strict=True)
    assert list(times) == sorted(times)
    assert times[-1] < 600.0
    assert set(names[: len(EVENTS)]) == set(EVENTS)


def test_a_plan_of_one_group_has_only_its_events() -> None:
    names = {name for _, name in day.plan(1, "fork", 600.0, groups=("worker",)).events}
    assert names == {"worker SIGTERM", "worker SIGUSR1", "worker kill -9", "worker stopped a while"}


def test_outcomes_add_up() -> None:
    whole = Outcome(images=3, once=3) + Outcome(images=2, once=1, lost=1, said=("x",))
    assert (whole.images, whole.once, whole.lost, whole.said) == (5, 4, 1, ("x",))
    assert not whole.good
    assert (Outcome(images=3, once=3)).good
    assert not (Outcome(images=3, once=3, errors=1)).good


def test_a_file_is_seen_as_it_comes_however_soon_it_goes(tmp_path: Path) -> None:
    with NewFiles(tmp_path) as files:
        (tmp_path / "first").touch()
        (tmp_path / "first").unlink()
        (tmp_path / "second").touch()
        assert list(files.names(LIMIT_S)) == ["first", "second"]
        assert list(files.names(0.0)) == []
        threading.Timer(0.1, (tmp_path / "third").touch).start()
        assert list(files.names(LIMIT_S)) == ["third"]
    with pytest.raises(FileNotFoundError):
        NewFiles(tmp_path / "none")


def test_a_dev_shm_of_its_own_is_filled_and_emptied_and_nobody_elses(tmp_path: Path) -> None:
    ours = os.statvfs("/dev/shm")
    code = "import time; open('/dev/shm/mine', 'w').close(); open('ready', 'w').close(); time.sleep(600)"
    with Program(
        (sys.executable, "-c", code), {}, (), tmp_path, within=private_shm.within(1 << 20)
    ) as program:
        assert eventually((tmp_path / "ready").exists)
        seen = private_shm.directory(program.pid)
        assert (seen / "mine").exists()
        assert not Path("/dev/shm/mine").exists()
        (seen / "free").write_bytes(b"x" * 65536)
        ballast = private_shm.Ballast(program.pid)
        assert ballast.bytes == (1 << 20) - 65536
        with pytest.raises(OSError, match="No space left"):
            (seen / "more").write_bytes(b"x" * 4096)
        (seen / "free").unlink()
        assert eventually(lambda: ballast.bytes == 1 << 20)
        ballast.drop()
        (seen / "more").write_bytes(b"x" * 4096)
        last = private_shm.Ballast(program.pid)
    last.drop()
    assert os.statvfs("/dev/shm").f_blocks == ours.f_blocks


WORKER = """#!{python}
import os, signal, sys, time
open(os.environ["TMPDIR"] + "/left by a killed process", "w").close()
open("../temporary", "w").write(os.environ["TMPDIR"])
status = open("../status").read()
if status: sys.exit(int(status))
with open("../lives", "a") as lives: lives.write(os.environ["AMI_WORKER_SPOOL_DIR"] + "\\n")
time.sleep(600)
"""


@pytest.fixture
def ami(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Stands for `ami`: ends with the status that is written down, or stays and says so."""
    program = tmp_path / "ami"
    program.write_text(WORKER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr("amidiag.soak.program._which", lambda name: str(program))

    def ends_with(status: str) -> None:
        (tmp_path / "status").write_text(status)

    ends_with("")
    return ends_with


def lives(tmp_path: Path) -> list[str]:
    file = tmp_path / "lives"
    return file.read_text().splitlines() if file.exists() else []


def test_a_worker_is_started_again_however_it_ends(tmp_path: Path, ami: Callable[[str], None]) -> None:
    with Supervised({}, (), tmp_path) as worker:
        assert eventually(lambda: len(lives(tmp_path)) == 1)
        os.kill(worker.pid, signal.SIGKILL)
        ami("70")
        assert eventually(lambda: len(worker.lives) >= 3, worker.tick)
        ami("")
        assert eventually(lambda: len(lives(tmp_path)) == 2, worker.tick)
    statuses = [life.status for life in worker.lives]
    assert (statuses[0], statuses[1], statuses[-1]) == (-signal.SIGKILL, 70, -signal.SIGTERM)
    # What is spooled by one life is the next one's.
    assert set(lives(tmp_path)) == {str(tmp_path / "spool")}
    assert not Path((tmp_path / "temporary").read_text()).exists()


@pytest.mark.parametrize("status", ["77", "78"])
def test_a_worker_that_would_end_so_again_is_not(
    tmp_path: Path, ami: Callable[[str], None], status: str
) -> None:
    ami(status)
    with (
        pytest.raises(ProgramError, match=f"the worker ended with {status}"),
        Supervised({}, (), tmp_path) as worker,
    ):
        eventually(lambda: False, worker.tick)
