"""A process that hangs, or does not end, ends all the same: with its code, its stacks, and without its children."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import ctypes, logging, os, sys, subprocess, threading, time
from worker.guard import watchdog
from worker.guard.leaving import leave_within
from worker.guard.watchdog import Watchdog
logging.basicConfig()
watchdog.LOOK_EVERY_S = 0.1
watchdog._ARMED_EVERY_S = 0.5
def hung(what): print("kept:", what, flush=True)
lock = threading.Lock(); lock.acquire()
def stuck_here(): lock.acquire()
child = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
"""


def run(program: str) -> tuple[int, str, str, psutil.Process | None]:
    """Exit code, output, standard error, and the child if it is still there."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, timeout=40, check=False
    )
    pid, _, out = done.stdout.partition("\n")
    try:
        child = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        child = None
    if child is not None and child.status() == psutil.STATUS_ZOMBIE:
        child = None
    return done.returncode, out, done.stderr, child


def test_a_main_thread_that_waits_too_long_is_told_with_all_stacks_and_ends_with_70() -> None:
    code, out, err, child = run("w = Watchdog(0.5, on_hang=hung); w.start(); w.at('a lock'); stuck_here()")
    assert (code, out, child) == (70, "kept: a lock\n", None)
    (line,) = [line for line in err.splitlines() if "CRITICAL" in line]
    assert "hangs at a lock for" in line
    assert "in stuck_here" in err


def test_a_lock_of_the_log_that_is_held_costs_the_line_and_not_the_stacks_nor_the_end() -> None:
    code, out, err, _ = run(
        "w = Watchdog(0.5, on_hang=hung); w.start(); logging.getLogger().handlers[0].acquire(); stuck_here()"
    )
    assert (code, out) == (70, "kept: starting\n")
    assert "in stuck_here" in err


def test_on_hang_may_hang_itself() -> None:
    code, *_ = run(
        "watchdog._ON_HANG_S = 0.3; w = Watchdog(0.5, on_hang=lambda w: stuck_here()); w.start(); stuck_here()"
    )
    assert code == 70


def test_each_thing_has_its_own_time() -> None:
    code, out, _, child = run("""
beats = []
w = Watchdog(1.5, on_hang=hung, alive=lambda: beats.append(1)); w.start()
for _ in range(10):
    w.at("a step"); time.sleep(0.3)
w.at("a long one", float("inf")); time.sleep(2)
w.stop(); assert len(beats) > 3
child.kill(); child.wait()
""")
    assert (code, out, child) == (0, "", None)


def test_work_counts_less_than_waiting_and_an_endless_loop_ends() -> None:
    code, out, _, _ = run("""
w = Watchdog(1, on_hang=hung); w.start(); w.at("work")
end = time.thread_time() + 1.5
while time.thread_time() < end: pass
w.at("a loop"); print("worked", flush=True)
while True: pass
""")
    assert (code, out) == (70, "worked\nkept: a loop\n")


def test_a_library_that_keeps_the_lock_of_the_interpreter_ends_with_1_and_the_stacks() -> None:
    code, out, err, child = run("w = Watchdog(0.5, on_hang=hung); w.start(); ctypes.PyDLL(None).sleep(100)")
    assert (code, out) == (1, "")
    assert "Timeout" in err
    assert child is not None
    child.kill()


def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    program = PROGRAM + "w = Watchdog(3); w.start(); print('at it', flush=True); time.sleep(2); child.kill()"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while process.stdout.readline() != "at it\n":
        pass
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    assert process.wait(30) == 0


def test_an_interpreter_that_does_not_end_ends_with_its_code_and_its_children() -> None:
    code, _, err, child = run(
        "import atexit; atexit.register(stuck_here); leave_within(75, 0.5); sys.exit(75)"
    )
    assert (code, child) == (75, None)
    assert "the interpreter has not ended within 0.5 s" in err


def test_an_end_that_hangs_below_python_is_ended_by_an_alarm() -> None:
    program = """
from worker.guard import leaving
leaving._ALARM_AFTER_S = 0.5
leave_within(75, 0.5)
ctypes.PyDLL(None).sleep(100)
"""
    code, *_ = run(program)
    assert code == -signal.SIGALRM


def test_a_stopped_child_does_not_hold_up_the_end() -> None:
    program = """
import multiprocessing, signal
p = multiprocessing.get_context("fork").Process(target=time.sleep, args=[1000], daemon=True)
p.start(); os.kill(p.pid, signal.SIGSTOP)
leave_within(0)
"""
    code, _, err, _ = run(program)
    assert (code, err) == (0, "")
