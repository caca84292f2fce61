"""Finding pages again and again: late ones, forked ones, damaged ones, and those of another user."""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from amidiag.attach.status import BadPageError, StatusReader, find_page, read_page
from amidiag.model import Identity, StatusView
from amidiag.procfs.identity import identify
from amidiag.target.status_page import PAGE_SIZE, TEXT_AT, W_TEXT_LEN, W_TEXT_SEQ, StatusPage

NOBODY = 65534
Start = Callable[..., subprocess.Popen[str]]

LATE = """
import sys
from amidiag.target.status_page import StatusPage
print("ready", flush=True)
sys.stdin.readline()
page = StatusPage.create()
page.count("polls", 5)
print(page.error, flush=True)
sys.stdin.read()
"""

# The first child comes from libc without Python's hooks, so it keeps its parent's page in its map.
FAMILY = """
import ctypes, os, sys
from amidiag.target.status_page import StatusPage
page = StatusPage.create()
page.count("polls", 1)
mute = ctypes.PyDLL(None).fork()
if mute == 0:
    os.read(0, 1); os._exit(0)
speaking = ctypes.PyDLL(None).fork()
if speaking == 0:
    own = StatusPage.create()
    own.count("polls", 2)
    os.write(1, f"{mute} {os.getpid()} {own.error}\\n".encode())
    os.read(0, 1); os._exit(0)
os.read(0, 1)
"""

USER = f"""
import os, sys
from amidiag.target.status_page import StatusPage
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
page = StatusPage.create()
page.count("polls", 3)
print(page.error, page.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run"
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(path))
    return path


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(code: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.communicate()


@pytest.fixture
def page(runtime: Path) -> Iterator[StatusPage]:
    page = StatusPage.create()
    assert page.error is None
    yield page
    page.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _until_it_speaks(reader: StatusReader, identity: Identity) -> StatusView:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        view = reader(identity)
        if view is not None:
            return view
        time.sleep(0.02)
    raise AssertionError("the page was never found")


def test_page_made_after_the_first_look_is_found(runtime: Path, start: Start) -> None:
    process = start(LATE)
    assert _line(process) == "ready"
    identity = identify(process.pid)
    reader, once = StatusReader(), StatusReader(look_again=math.inf)
    assert reader(identity) is None and once(identity) is None
    _say(process)
    assert _line(process) == "None"
    assert _until_it_speaks(reader, identity).counters.polls == 5
    # That looking again is rare, not at every observation, is what keeps loaders cheap.
    assert once(identity) is None


def test_processes_not_asked_for_any_more_are_forgotten(page: StatusPage) -> None:
    me = identify(os.getpid())
    reader = StatusReader()
    for ended in range(5000):
        assert reader(Identity(me.boot_id, 2**22 + ended, 1)) is None
        assert reader(me) is not None
    assert len(reader._looks) <= 1024


def test_forked_children_speak_only_for_themselves(runtime: Path, start: Start) -> None:
    process = start(FAMILY)
    mute, speaking, error = _line(process).split()
    assert error == "None"
    reader = StatusReader()
    views = [reader(identify(int(pid))) for pid in (process.pid, mute, speaking)]
    assert [view and view.counters.polls for view in views] == [1, None, 2]


DAMAGED = [
    b"{}",
    b"[]",
    b"7",
    b"{",
    b"\xff\xfe",
    b"[" * (PAGE_SIZE - TEXT_AT),
    b'{"settings":{}}',
    b'{"settings":3,"caches":{}}',
    b'{"settings":{},"caches":[]}',
    b'{"settings":{},"caches":{},"health":7}',
    b'{"settings":{},"caches":{},"health":{"ok":1}}',
    b'{"settings":{},"caches":{},"health":{"ok":true,"why":null,"since":1e99}}',
    b'{"settings":{},"caches":{},"health":{"ok":true,"why":null,"since":"now"}}',
    b'{"settings":{"a":' + b"9" * 5000 + b'},"caches":{}}',
]


@pytest.mark.parametrize("text", DAMAGED, ids=lambda text: repr(text[:24]))
def test_damaged_text_is_a_bad_page(page: StatusPage, text) -> None:
    me, reader = identify(os.getpid()), StatusReader()
    assert reader(me) is not None
    assert page.path is not None
    _overwrite(page.path, W_TEXT_LEN * 8, len(text).to_bytes(8, sys.byteorder))
    _overwrite(page.path, TEXT_AT, text)
    with pytest.raises(BadPageError, match="damaged"):
        read_page(page.path)
    assert reader(me) is None
    assert StatusReader()(me) is None


def test_page_that_stays_in_rewriting_says_nothing(page: StatusPage) -> None:
    assert page.path is not None
    _overwrite(page.path, W_TEXT_SEQ * 8, (9).to_bytes(8, sys.byteorder))
    with pytest.raises(BadPageError, match="rewritten"):
        read_page(page.path)
    assert StatusReader()(identify(os.getpid())) is None


def _overwrite(path: str, at: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, at)
    os.close(fd)


@pytest.mark.timeout(30)
def test_fifo_and_directory_are_no_pages(tmp_path: Path) -> None:
    fifo = tmp_path / "1-2.status"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(BadPageError, match="not a regular file"):
        read_page(str(fifo))
    tmp_path.chmod(0o700)
    with pytest.raises(BadPageError, match="not a regular file"):
        read_page(str(tmp_path))


def test_page_is_believed_only_for_a_process_of_its_owner(page: StatusPage) -> None:
    assert page.path is not None
    assert read_page(page.path, owner=os.getuid()).identity == identify(os.getpid())
    with pytest.raises(BadPageError, match="another user"):
        read_page(page.path, owner=os.getuid() + 1)


@pytest.mark.root
def test_page_of_another_user_is_not_believed(page: StatusPage) -> None:
    me, reader = identify(os.getpid()), StatusReader()
    assert page.path is not None
    assert reader(me) is not None
    os.chown(page.path, NOBODY, NOBODY)
    assert reader(me) is None
    assert find_page(me) is None
    with pytest.raises(BadPageError, match="another user"):
        read_page(page.path)


@pytest.mark.root
def test_root_reads_the_worker_of_a_user(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not under pytest's own directory, where `nobody` may not go.
    directory = tempfile.mkdtemp()
    os.chown(directory, NOBODY, NOBODY)
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", directory)
    try:
        process = start(USER)
        error, path = _line(process).split()
        assert error == "None"
        view = StatusReader()(identify(process.pid))
        assert view is not None and view.counters.polls == 3
        assert read_page(path, owner=NOBODY).view.counters.polls == 3
        with pytest.raises(BadPageError, match="another user"):
            read_page(path)
    finally:
        shutil.rmtree(directory)
