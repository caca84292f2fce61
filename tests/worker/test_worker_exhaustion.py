"""What has run out is named, however it is wrapped; its reserve of FDs; and polls that meet it, counted."""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from worker_rig import AMI, LIMIT_S, environment

from amidiag.soak.antenna import AntennaServer
from worker.antenna.client import AntennaClient
from worker.antenna.schemas import UnavailableError
from worker.exhaustion import ExhaustedError, Shortage, behind, exhausted, short_of_fds
from worker.guard.fd_reserve import FdReserve

EMFILE = "EMFILE: Too many open files"


@contextmanager
def fds_used_up(left: int = 0) -> Iterator[None]:
    """No free FD but `left`."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 40, before[1]))
    held: list[int] = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError as e:
        assert e.errno == errno.EMFILE
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def failure(call: Callable[[], object]) -> Exception:
    try:
        call()
    except Exception as e:  # noqa: BLE001 - whatever it is, it is what is looked at
        return e
    raise AssertionError("it did not fail")


def test_emfile_is_named_inside_the_wrappers_of_requests() -> None:
    client = AntennaClient("https://127.0.0.1:9/api/v2", "token")
    with fds_used_up():
        error = failure(lambda: client.jobs(["any"]))
    assert isinstance(error, UnavailableError)
    assert exhausted(error) == EMFILE
    with fds_used_up():
        assert exhausted(failure(lambda: requests.get("https://127.0.0.1:9/", timeout=5))) == EMFILE
    inner = requests.exceptions.SSLError(OSError(errno.EMFILE, "Too many open files"))
    assert exhausted(inner) == EMFILE


def test_a_name_that_cannot_be_looked_up_for_want_of_fds_is_emfile_and_no_trouble_of_dns() -> None:
    client = AntennaClient("http://localhost:9/api/v2", "token")
    with fds_used_up():
        error = failure(lambda: client.jobs(["any"]))
        found = behind(error)
    assert found == EMFILE
    # The same failure with FDs to spare is what it says.
    unknown = UnavailableError("GET /jobs: gaierror")
    unknown.__cause__ = requests.ConnectionError(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"))
    assert behind(unknown) is None


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_server_that_is_not_there_is_to_blame_however_few_fds_are_left(left: int) -> None:
    client = AntennaClient("http://127.0.0.1:9/api/v2", "t")
    with fds_used_up(left), pytest.raises(UnavailableError, match="ConnectionRefusedError") as refused:
        client.jobs(["moth_binary"])
    with fds_used_up(left):
        assert behind(refused.value) is None


def test_an_answer_of_the_server_is_never_for_want_of_fds() -> None:
    with fds_used_up():
        assert behind(UnavailableError("GET /jobs: 503 Service Unavailable")) is None


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (
            RuntimeError("unable to mmap 4096 bytes from file </torch_1>: No space left on device (28)"),
            "ENOSPC",
        ),
        (
            RuntimeError("unable to open shared memory object </t>: Too many open files in system (23)"),
            "ENFILE",
        ),
        (
            OSError(
                "Caught OSError in DataLoader worker process 0.\nOSError: [Errno 24] Too many open files"
            ),
            "EMFILE",
        ),
        (RuntimeError("received 0 items of ancdata"), "EMFILE"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ENOMEM"),
        (OSError(errno.ECONNREFUSED, "Connection refused"), None),
        (ValueError("[Errno 24] Too many open files, says an image"), None),
    ],
)
def test_what_torch_and_loader_processes_say_in_words(error: Exception, named: str | None) -> None:
    found = exhausted(error)
    assert (found and found.split(":")[0]) == named


def test_torch_itself_says_it_so() -> None:
    """The texts above are not ours: a torch that words them otherwise would go unnoticed."""
    program = (
        "import torch, resource, os\n"
        "from worker.exhaustion import exhausted\n"
        "t = torch.zeros(4096)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1,) * 2)\n"
        "try:\n    t.share_memory_()\n"
        "except RuntimeError as e:\n    print(exhausted(e))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S, check=True
    )
    assert done.stdout == EMFILE + "\n", done.stderr


def test_fds_are_tried_and_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert short_of_fds() is None
    assert len(os.listdir("/proc/self/fd")) == before
    with fds_used_up(left=3):
        assert short_of_fds(4) == EMFILE
        assert short_of_fds(3) is None


def test_the_reserve_is_there_when_nothing_else_is(tmp_path: Path) -> None:
    reserve = FdReserve(8)
    with fds_used_up():
        with pytest.raises(OSError, match="Too many open files"):
            (tmp_path / "last words").touch()
        reserve.release()
        assert reserve.held == 0
        (tmp_path / "last words").write_text("said")
        taken = [os.dup(0) for _ in range(5)]
        reserve.renew()
        assert reserve.held == 3
        for fd in taken:
            os.close(fd)
    reserve.renew()
    assert reserve.held == 8
    reserve.release()


def test_a_forked_child_has_none_of_it_even_if_another_thread_held_its_lock() -> None:
    reserve = FdReserve(8)
    before = len(os.listdir("/proc/self/fd"))
    forked = threading.Event()
    with reserve._lock:
        pid = os.fork()
        if pid == 0:
            reserve.renew()
            os._exit(reserve.held or before - len(os.listdir("/proc/self/fd")) != 8)
    forked.set()
    assert os.waitpid(pid, 0)[1] == 0
    assert reserve.held == 8
    reserve.release()


@pytest.fixture
def shortage() -> Iterator[Shortage]:
    reserve = FdReserve(4)
    yield Shortage(reserve)
    reserve.release()


def test_three_in_a_row_end_the_worker_and_are_said_once(
    shortage: Shortage, caplog: pytest.LogCaptureFixture
) -> None:
    shortage.met(EMFILE, "asking for jobs", "one")
    shortage.met(EMFILE, "loading images", "two")
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "EMFILE: Too many open files, when asking for jobs: one" in caplog.text
    with pytest.raises(
        ExhaustedError, match=r"when loading images: three \(3 in a row\); the limit is \d+ FDs"
    ):
        shortage.met(EMFILE, "loading images", "three")
    assert shortage._reserve.held == 0


def test_what_goes_well_again_ends_its_own_count_only(
    shortage: Shortage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(2):
        shortage.met(EMFILE, "asking for jobs", "e")
        shortage.over("asking for jobs")
    assert caplog.text.count("asking for jobs: that has gone well again") == 2
    assert shortage.error is None
    # A poll over a connection that is kept says nothing about loaders.
    for _ in range(2):
        shortage.met(EMFILE, "loading images", "e")
        shortage.over("asking for jobs")
    assert isinstance(shortage.error, ExhaustedError)
    with pytest.raises(ExhaustedError):
        shortage.met(EMFILE, "loading images", "e")


def test_a_worker_without_fds_for_its_polls_ends_with_70_and_says_emfile_twice(
    server: AntennaServer, tmp_path: Path
) -> None:
    """The server ends the connection of the first polls, and no other one can be had."""
    process = subprocess.Popen(
        [str(AMI), "worker", "run"],
        env=environment(tmp_path, server, AMI_WORKER_MAX_FDS_PERCENT=0, AMI_ANTENNA_IDLE_SLEEP_SECONDS=0.3),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + LIMIT_S
        while not server.state().polls:
            assert time.monotonic() < limit
            time.sleep(0.02)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (1, 1))
        server.stop()
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 70, err
    said = [line for line in err.splitlines() if "EMFILE" in line]
    assert len(said) == 2, err
    assert "asking for jobs" in said[0]
    assert "worker.service: EMFILE: Too many open files, when asking for jobs" in said[1]
    assert "Traceback" not in err
