"""The status page never raises into the program that writes it, and never blocks it."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from amidiag.attach.status import read_page
from amidiag.model import Counters
from amidiag.target.status_page import TEXT_AT, W_TEXT_LEN, W_TEXT_SEQ, StatusPage


class Rude:
    """What some library may put into a setting: it cannot even be printed."""

    def __str__(self) -> str:
        raise RuntimeError("not for you")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def page(runtime: Path) -> Iterator[StatusPage]:
    page = StatusPage.create(settings={"AMI_NUM_WORKERS": 1})
    assert page.error is None
    yield page
    page.close()


def _counters(page: StatusPage) -> Counters:
    assert page.path is not None
    return read_page(page.path).view.counters


@pytest.mark.parametrize("settings", [{(1, 2): 3}, 5, {"a": Rude()}, {"a": {Path("/"): 1}}])
def test_settings_that_cannot_be_written_leave_no_file(runtime: Path, settings) -> None:
    page = StatusPage.create(settings=settings)
    assert page.error is not None and page.error.startswith("status page not available: ")
    assert page.path is None
    page.count("polls")
    page.state("idle")
    page.caches({})
    page.close()
    assert not runtime.exists() or list(runtime.iterdir()) == []
    assert StatusPage.create().error is None


def test_wrong_words_are_remembered_and_harmless(page: StatusPage) -> None:
    page.caches({"buffer": {"entries": 1, "bytes": 2}})
    page.count("nope")
    assert page.error == "KeyError: 'nope'"
    page.state("nope")
    page.count("polls", "many")  # type: ignore[arg-type]
    page.count("polls", -1)
    page.caches({(1, 2): {}})  # type: ignore[dict-item]
    page.caches({"a": {"b": Rude()}})  # type: ignore[dict-item]
    page.caches(5)  # type: ignore[arg-type]
    page.health(False, Rude())  # type: ignore[arg-type]
    page.count("polls")
    assert page.error == "KeyError: 'nope'"
    assert page.path is not None
    seen = read_page(page.path)
    assert (seen.view.counters, seen.view.state) == (Counters(polls=1), "starting")
    assert seen.view.settings == {"AMI_NUM_WORKERS": 1}
    assert seen.caches == {"buffer": {"entries": 1, "bytes": 2}}


def test_writing_while_closing(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(150):
            page = StatusPage.create()
            started = threading.Barrier(4)
            done = threading.Event()

            def write(page=page, started=started, done=done) -> None:
                started.wait()
                while not done.is_set():
                    page.count("posts")
                    page.progress()

            threads = [threading.Thread(target=write) for _ in range(3)]
            for thread in threads:
                thread.start()
            started.wait()
            while _counters(page).posts < 20:
                pass
            page.close()
            done.set()
            for thread in threads:
                thread.join()
            assert page.error is None
            assert list(runtime.iterdir()) == []
    finally:
        sys.setswitchinterval(interval)
    assert raised == []


# PyDLL keeps the GIL, and libc's fork runs none of Python's hooks: so C libraries fork.
FORKING = """
import ctypes, os, signal, sys, threading
from amidiag.target.status_page import StatusPage
page = StatusPage.create()
assert page.error is None, page.error
locked, go_on = threading.Event(), threading.Event()
def hold():
    with page._lock:
        locked.set(); go_on.wait()
holder = threading.Thread(target=hold)
holder.start()
locked.wait()
pid = os.fork() if sys.argv[1] == "python" else ctypes.PyDLL(None).fork()
if pid == 0:
    signal.alarm(20)
    page.count("polls", 1000); page.state("draining"); page.progress()
    page.caches({"child": {"entries": 1}}); page.close()
    os._exit(0 if page.error is None else 3)
_, status = os.waitpid(pid, 0)
go_on.set(); holder.join()
page.count("polls")
print(os.waitstatus_to_exitcode(status), page.path, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["python", "c"])
def test_page_is_inert_in_a_child_forked_under_the_lock(runtime: Path, how) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", FORKING, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    status, path = process.stdout.readline().split()
    seen = read_page(path)
    process.communicate()
    assert status == "0"
    assert (seen.view.counters, seen.view.state, seen.caches) == (Counters(polls=1), "starting", {})


@pytest.mark.timeout(60)
def test_signal_handler_may_write_while_its_thread_does(page: StatusPage) -> None:
    handled = 0

    def handler(number: int, frame: object) -> None:
        nonlocal handled
        handled += 1
        page.count("jobs")

    before = signal.signal(signal.SIGVTALRM, handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.0005, 0.0005)
    try:
        while handled < 100:
            page.caches({"a": {"entries": handled}})
            page.count("polls")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    assert page.error is None
    assert _counters(page).jobs >= 99


def test_writing_that_was_cut_short_does_not_spoil_the_next(page: StatusPage) -> None:
    # Ctrl-C between the two stores of the sequence number leaves it odd.
    assert page.path is not None
    with open(page.path, "r+b", buffering=0) as file:
        words = memoryview(file.read()).cast("Q")
        os.pwrite(file.fileno(), (words[W_TEXT_SEQ] + 1).to_bytes(8, sys.byteorder), W_TEXT_SEQ * 8)
        os.pwrite(file.fileno(), b"{{{{", TEXT_AT)
        assert words[W_TEXT_LEN] > 4
    page.caches({"a": {"entries": 7}})
    assert read_page(page.path).caches == {"a": {"entries": 7}}
