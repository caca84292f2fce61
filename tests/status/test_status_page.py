"""The status page, written by real processes and read from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from amidiag.attach.status import BadPageError, StatusReader, find_page, read_page
from amidiag.model import Identity
from amidiag.procfs.identity import identify
from amidiag.target.status_page import TEXT_AT, W_TEXT_LEN, StatusPage

PROGRAM = """
import os, resource, sys
from amidiag.target.status_page import TEXT_AT, W_TEXT_LEN, StatusPage
page = StatusPage.create(settings={"AMI_NUM_WORKERS": 1})
assert page.error is None, page.error
page.count("polls"); page.count("loaders", 3); page.count("images", 24); page.state("job")
what = sys.argv[1]
if what == "emfile":
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True: os.dup(0)
    except OSError as e:
        assert e.errno == 24
if what == "fork":
    pid = os.fork()
    if pid == 0:
        page.count("polls", 1000); page.state("draining"); os._exit(0)
    os.waitpid(pid, 0)
if what == "clean":
    page.close()
print(page.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def start(runtime: Path) -> Iterator[object]:
    running: list[subprocess.Popen[str]] = []

    def begin(what: str) -> tuple[subprocess.Popen[str], Identity, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, what],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AMIDIAG_RUNTIME_DIR": str(runtime)},
        )
        running.append(process)
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        assert path
        return process, identify(process.pid), path

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("what", ["plain", "emfile", "fork"])
def test_page_is_read_from_outside(start, what) -> None:
    _, identity, path = start(what)
    view = StatusReader()(identity)
    assert view is not None
    assert (view.counters.polls, view.counters.loaders, view.counters.images) == (1, 3, 24)
    assert view.counters.jobs == 0
    assert view.state == "job"
    assert view.settings == {"AMI_NUM_WORKERS": 1}
    assert view.progress_age is not None and view.progress_age >= 0
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path).st_blocks * 512 >= os.stat(path).st_size


def test_stopped_process_still_answers(start) -> None:
    process, identity, _ = start("plain")
    os.kill(process.pid, signal.SIGSTOP)
    first = StatusReader()(identity)
    time.sleep(0.05)
    second = StatusReader()(identity)
    os.kill(process.pid, signal.SIGCONT)
    assert first is not None and second is not None
    assert second.progress_age >= first.progress_age + 0.05


def test_killed_process_leaves_its_page(start) -> None:
    process, identity, path = start("plain")
    process.kill()
    process.wait()
    assert find_page(identity) is None
    page = read_page(path)
    assert page.identity == identity
    assert page.view.counters.loaders == 3


def test_clean_exit_removes_the_file(start) -> None:
    _, identity, path = start("clean")
    assert not os.path.exists(path)
    assert StatusReader()(identity) is None


def test_process_without_page_says_nothing(start) -> None:
    plain = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert StatusReader()(identify(plain.pid)) is None
    plain.communicate(b"\n")


def test_directory_of_others_is_refused(tmp_path, monkeypatch) -> None:
    open_dir = tmp_path / "open"
    open_dir.mkdir(mode=0o777)
    open_dir.chmod(0o777)
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(open_dir))
    page = StatusPage.create()
    assert page.error is not None and "0700" in page.error
    page.count("polls")
    page.close()
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(link))
    assert StatusPage.create().error is not None
    assert list(open_dir.iterdir()) == []


def test_full_file_system_leaves_an_inert_page(tmp_path) -> None:
    # A tmpfs of one page: posix_fallocate fails with ENOSPC instead of a later SIGBUS.
    code = (
        "import os, sys; from amidiag.target.status_page import StatusPage\n"
        "page = StatusPage.create(); page.count('polls'); print(page.error)\n"
        "print(os.listdir(sys.argv[1]))"
    )
    target = tmp_path / "small"
    target.mkdir()
    script = (
        f"mount -t tmpfs -o size=8k,mode=0700 none {target} && AMIDIAG_RUNTIME_DIR={target} "
        f'{sys.executable} -c "$CODE" {target}'
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "CODE": code},
        check=True,
    )
    error, left = done.stdout.splitlines()
    assert "No space left" in error
    assert left == "[]"


def test_damaged_and_foreign_files_are_not_believed(tmp_path) -> None:
    path = tmp_path / "1-2.status"
    path.write_bytes(b"x" * 16384)
    path.chmod(0o600)
    with pytest.raises(BadPageError, match="no status page"):
        read_page(str(path))
    path.chmod(0o644)
    with pytest.raises(BadPageError, match="open to other users"):
        read_page(str(path))


def test_counts_from_many_threads_are_all_there(start, runtime, monkeypatch) -> None:
    import threading

    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(runtime))
    page = StatusPage.create()
    threads = [threading.Thread(target=lambda: [page.count("posts") for _ in range(2000)]) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    view = StatusReader()(identify(os.getpid()))
    assert view is not None and view.counters.posts == 8000
    page.caches({"buffer": {"entries": 2, "bytes": 10}})
    assert page.path is not None
    assert read_page(page.path).caches == {"buffer": {"entries": 2, "bytes": 10}}
    page.close()


def test_health_is_read_from_outside_and_keeps_its_beginning(runtime, monkeypatch) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(runtime))
    page = StatusPage.create(settings={"AMI_NUM_WORKERS": 1})
    page.caches({"buffer": {"entries": 2}})
    me, reader = identify(os.getpid()), StatusReader()
    well = reader(me)
    assert well is not None and well.health is not None
    assert (well.health.ok, well.health.why) == (True, None)
    page.health(False, "hangs at a batch")
    first = page.read()
    page.health(False, "hangs at a batch, still")
    ill = reader(me)
    assert first is not None and ill is not None and ill.health is not None
    assert (ill.health.ok, ill.health.why) == (False, "hangs at a batch, still")
    assert datetime.fromisoformat(ill.health.since).timestamp() == int(first["health"]["since"])
    assert ill.settings == {"AMI_NUM_WORKERS": 1}
    assert page.path is not None and read_page(page.path).caches == {"buffer": {"entries": 2}}
    page.health(True)
    again = page.read()
    assert again is not None and again["health"]["ok"] and again["health"]["why"] is None
    assert again["health"]["since"] >= first["health"]["since"]
    page.close()
    assert page.read() is None


def test_health_outlasts_a_text_that_is_too_long(runtime, monkeypatch) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(runtime))
    page = StatusPage.create(settings={"long": "x" * 20_000})
    page.health(False, "y" * 20_000)
    view = StatusReader()(identify(os.getpid()))
    assert view is not None and view.health is not None and not view.health.ok
    assert view.health.why == "y" * 500
    assert view.settings == {}
    page.close()


def test_a_page_of_an_older_writer_says_nothing_of_health(runtime, monkeypatch) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(runtime))
    page = StatusPage.create()
    assert page.path is not None
    text = b'{"settings":{},"caches":{}}'
    with open(page.path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), text, TEXT_AT)
        os.pwrite(file.fileno(), len(text).to_bytes(8, sys.byteorder), W_TEXT_LEN * 8)
    assert read_page(page.path).view.health is None
    page.close()
