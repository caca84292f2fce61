"""The whole worker with a staging directory: answered from the disk, tidied, resumed; or refused in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from worker_rig import Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer, ImageSpec
from worker.ingest.staging_room import LOCK_NAME
from worker.loop import Worker

Make = Callable[..., Worker]
Start = Callable[..., Running]


def files(directory: Path) -> list[Path]:
    """Images, whole or on their way; not the book that the workers of a directory share."""
    return [path for path in directory.rglob("*") if path.is_file() and path.parent != directory]


def test_a_job_is_answered_from_the_disk_and_nothing_stays(
    server: AntennaServer, worker: Make, tmp_path: Path
) -> None:
    broken = traps(1, broken="html")
    server.add_job(job(*traps(12), *broken))
    worker(server, AMI_STAGING_DIR=tmp_path / "staged", AMI_ANTENNA_API_BATCH_SIZE=4).run(max_polls=2)
    state = server.state()
    assert (state.results, state.errors, state.answered_twice) == (12, 1, 0)
    assert sum(state.requests["GET images"].values()) == 13
    assert files(tmp_path / "staged") == []


def test_a_killed_worker_that_starts_again_downloads_nothing_twice(
    serve: Callable[..., AntennaServer], start: Start, tmp_path: Path
) -> None:
    server = serve(visibility_timeout_s=1.0)
    (good,) = traps(1)
    server.add_job(job(*traps(4), ImageSpec(good, slow_s=30), good))
    staged = tmp_path / "staged"
    changes = {"AMI_STAGING_DIR": staged, "AMI_ANTENNA_API_BATCH_SIZE": 6, "AMI_AUTOTUNE": "false"}
    process = start("run", server=server, **changes)
    while len([path for path in files(staged) if "part" not in path.name]) < 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    answered, kept = server.state().answered, len(files(staged))
    before = sum(server.state().requests["GET images"].values())
    process = start("run", server=server, **changes)
    while server.state().results < 5:
        time.sleep(0.05)
    process.terminate()
    ended(process)
    # Of those that had come whole none was asked for again; the slow one may be.
    assert kept + answered >= 5
    assert sum(server.state().requests["GET images"].values()) - before <= 2


def test_a_directory_that_cannot_be_used_ends_with_78_and_one_line(
    server: AntennaServer, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    code, _, err = ended(start("run", server=server, AMI_STAGING_DIR=tmp_path / "file"))
    assert code == os.EX_CONFIG
    assert "AMI_STAGING_DIR" in err
    assert "Traceback" not in err


def test_a_strangers_file_in_the_directory_is_left_as_it_is(
    server: AntennaServer, worker: Make, tmp_path: Path
) -> None:
    for name in ("room", LOCK_NAME):
        (tmp_path / name).write_text("precious and not ours")
    server.add_job(job(*traps(2)))
    worker(server, AMI_STAGING_DIR=tmp_path).run(max_polls=1)
    assert server.state().results == 2
    assert [(tmp_path / name).read_text() for name in ("room", LOCK_NAME)] == ["precious and not ours"] * 2
