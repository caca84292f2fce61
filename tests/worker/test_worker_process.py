"""`ami worker` as a supervisor sees it: exit codes, signals, one clear line."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from worker_rig import Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer, FaultSpec, ImageSpec, JobSpec
from amidiag.soak.traps import TrapSpec

Start = Callable[..., Running]


def test_defaults_finish_a_job_by_forkserver_and_leave_nothing(
    server: AntennaServer, start: Start, tmp_path: Path
) -> None:
    server.add_job(job(*traps(5)))
    process = start("run", "--once", server=server, AMI_ANTENNA_API_DATALOADER_MP_CONTEXT="forkserver")
    code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert server.state().results == 5
    assert "job 1 (moth_binary): 5 images answered, 0 of them as errors" in err
    assert list((tmp_path / "run").iterdir()) == []


def test_a_wrong_token_ends_with_77_and_one_line(server: AntennaServer, start: Start) -> None:
    code, _, err = ended(start("run", server=server, AMI_ANTENNA_API_AUTH_TOKEN="not-the-token"))
    assert code == 77
    (line,) = [line for line in err.splitlines() if "ERROR" in line]
    assert "refused" in line
    assert "401" in line
    assert "not-the-token" not in err


def test_an_unreachable_server_ends_with_69_and_one_line(start: Start) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        process = start(
            "run",
            AMI_ANTENNA_API_BASE_URL=f"http://127.0.0.1:{port}/api/v2",
            AMI_ANTENNA_UNREACHABLE_LIMIT_S="0.5",
            # The limit is not waited past, however seldom the worker polls.
            AMI_ANTENNA_IDLE_SLEEP_SECONDS="600",
        )
        code, _, err = ended(process)
    assert code == 69
    (line,) = [line for line in err.splitlines() if "ERROR" in line]
    assert "server unreachable" in line
    assert "Connection refused" in line


def test_sigterm_finishes_the_batch_in_hand_posts_it_and_ends_with_0(
    server: AntennaServer, start: Start
) -> None:
    # Large enough that batches follow one another while the signal comes.
    images = tuple(TrapSpec(seed=i, width=640, height=480) for i in range(24))
    server.add_job(JobSpec(pipeline="trap_species", images=images))
    process = start("run", server=server, AMI_ANTENNA_API_BATCH_SIZE=4)
    while server.state().results < 4:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)
    state = server.state()
    assert code == 0
    assert "drained" in err
    assert state.results % 4 == 0
    assert 4 <= state.results < 24
    assert state.answered_twice == 0
    if state.reserved:
        assert "left to the server's redelivery" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_in_the_first_seconds_is_a_drain_too(
    server: AntennaServer, start: Start, number: signal.Signals
) -> None:
    """While torch is imported there is no drain yet, and the signal's own way would look like a crash."""
    process = start("run", server=server, AMI_NUM_WORKERS=2)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(number)
    code, _, err = ended(process)
    assert "AMI_NUM_WORKERS=2 (environment)" in first
    assert "AMI_ANTENNA_API_AUTH_TOKEN=********" in first
    assert code == 0
    assert number.name in err


def test_ctrl_c_for_the_whole_group_drains_too(server: AntennaServer, start: Start) -> None:
    (good,) = traps(1)
    server.add_job(job(*traps(4), ImageSpec(good, slow_s=3)))
    process = start("run", server=server, AMI_ANTENNA_API_BATCH_SIZE=4)
    while (state := server.state()).results < 4 or state.reserved < 1:
        time.sleep(0.02)
    # Until the worker, too, knows what it has reserved; the image takes much longer.
    time.sleep(0.3)
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        one.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 0
    assert "Traceback" not in err
    assert "job 1: 1 task (" in err
    assert server.state().reserved == 1


def test_a_signal_ends_the_wait_for_a_poll(server: AntennaServer, start: Start) -> None:
    server.hold_polls()
    process = start("run", server=server)
    assert server.wait_poll(30)
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 0


def test_a_second_signal_ends_at_once_with_its_children(server: AntennaServer, start: Start) -> None:
    server.add_job(job(*traps(2)))
    server.fault(FaultSpec("503", on=("result",)))
    process = start("run", server=server, AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS="true")
    while not server.state().faults.get("503"):
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 128 + signal.SIGTERM
    assert not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_killed_worker_leaves_no_process_behind(server: AntennaServer, start: Start, method: str) -> None:
    server.add_job(job(*(ImageSpec(trap, slow_s=1) for trap in traps(40))))
    changes = {"AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": method, "AMI_ANTENNA_API_BATCH_SIZE": 1}
    process = start("run", server=server, AMI_NUM_WORKERS=2, **changes)
    while server.state().results < 1:
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    limit = time.monotonic() + 30
    while (left := [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE]) and (
        time.monotonic() < limit
    ):
        time.sleep(0.05)
    for child in left:
        child.kill()
    assert left == []


def test_a_failing_start_is_an_internal_error(start: Start, server: AntennaServer, tmp_path: Path) -> None:
    """A pipeline that cannot be loaded: the worker says so and ends, instead of failing job after job."""
    package = tmp_path / "broken"
    package.mkdir()
    (package / "sitecustomize.py").write_text(
        "import pathlib\nopen_before = pathlib.Path.open\nimport worker.pipelines.pipeline as p\n"
        "p.WEIGHTS = pathlib.Path('/nowhere')\n"
    )
    server.add_job(job(*traps(2)))
    code, _, err = ended(start("run", server=server, PYTHONPATH=package))
    assert code == 70
    assert "internal error" in err
    assert "/nowhere" in err


def test_a_torch_that_does_not_load_is_an_internal_error(start: Start, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.99: cannot open shared object file')")
    code, _, err = ended(start("run", PYTHONPATH=tmp_path))
    assert code == 70
    assert "internal error" in err
    assert "libcudart.so.99" in err.splitlines()[-1]


def test_a_status_page_that_cannot_be_made_does_not_stop_the_worker(
    server: AntennaServer, start: Start, tmp_path: Path
) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a directory is wanted")
    server.add_job(job(*traps(1)))
    code, _, err = ended(start("run", "--once", server=server, AMIDIAG_RUNTIME_DIR=blocked))
    assert code == 0
    assert "status page not available" in err
    assert server.state().results == 1
    assert os.path.isfile(blocked)
