"""The program under test and its keeper: started, watched, and ended with everything that it started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from amidiag.soak.program import Program, ProgramError

ORPHAN = """
import os, subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf])
open("child", "w").write(str(child.pid)); os.rename("child", "child.pid")
if sys.argv[1] == "end": sys.exit(3)
time.sleep(600)
"""
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); open('deaf', 'w').close(); time.sleep(600)"


def start(tmp_path: Path, code: str, *words: str) -> Program:
    program = tmp_path / "program.py"
    program.write_text(code)
    return Program((sys.executable, str(program), *words), {}, (), tmp_path)


def wait_for(path: Path) -> Path:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return path


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("how", ["end", "stay"])
def test_children_that_outlive_the_program_are_ended(tmp_path, how) -> None:
    program = start(tmp_path, ORPHAN, how)
    child = int(wait_for(tmp_path / "child.pid").read_text())
    if how == "end":
        deadline = time.monotonic() + 30
        while program.exit_status is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert program.stop() == (3 if how == "end" else -signal.SIGTERM)
    assert gone(child)
    assert gone(program.pid)


def test_a_program_that_ignores_sigterm_is_killed(tmp_path) -> None:
    program = start(tmp_path, DEAF)
    wait_for(tmp_path / "deaf")
    assert program.stop(patience=0.2) == -signal.SIGKILL
    assert gone(program.pid)


def test_nothing_is_left_when_the_soak_itself_is_killed(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from amidiag.soak.program import Program\n"
        f"p = Program((sys.executable, {str(tmp_path / 'orphan.py')!r}, 'stay'), {{}}, (), Path({str(tmp_path)!r}))\n"
        "print(p.pid, flush=True); time.sleep(600)"
    )
    (tmp_path / "orphan.py").write_text(ORPHAN)
    soak = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert soak.stdout is not None
    worker = int(soak.stdout.readline())
    child = int(wait_for(tmp_path / "child.pid").read_text())
    soak.kill()
    soak.communicate()
    assert gone(worker)
    assert gone(child)


def test_what_cannot_be_started_says_why(tmp_path) -> None:
    with pytest.raises(ProgramError, match="cannot start no-such-program: no such program"):
        Program(("no-such-program",), {}, (), tmp_path)
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    with pytest.raises(ProgramError, match=r"cannot start .*broken: No such file"):
        Program((str(broken),), {}, (), tmp_path)
    broken.chmod(0o644)
    with pytest.raises(ProgramError, match="not executable"):
        Program((str(broken),), {}, (), tmp_path)


def test_a_relative_directory_and_a_stale_report(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept").mkdir()
    Path("kept/faults.json").write_text('{"torch-atexit-per-loader": "armed: stale"}')
    program = Program((sys.executable, "-c", "print('hello')"), {}, (), Path("kept"))
    assert program.stop() in (0, -signal.SIGTERM)
    assert program.faults == {}
    assert os.path.exists(tmp_path / "kept" / "worker.log")


def test_what_it_spools_stays_in_its_directory_unless_its_settings_say_otherwise(tmp_path) -> None:
    code = "import os, sys; print(os.environ['AMI_WORKER_SPOOL_DIR'])"
    for name, settings, spool in (
        ("own", {}, str(tmp_path / "own" / "spool")),
        ("none", {"AMI_WORKER_SPOOL_DIR": ""}, ""),
    ):
        (tmp_path / name).mkdir()
        with Program((sys.executable, "-c", code), settings, (), tmp_path / name) as program:
            deadline = time.monotonic() + 30
            while program.exit_status is None and time.monotonic() < deadline:
                time.sleep(0.01)
        assert program.log.read_text() == f"{spool}\n"
