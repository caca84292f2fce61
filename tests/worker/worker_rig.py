"""What the tests of the worker share: an environment, settings, trap images, and the end of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from amidiag.soak.antenna import AntennaServer, ImageSpec, JobSpec
from amidiag.soak.traps import TrapSpec
from worker.settings import WorkerSettings, read

TOKEN = "trap-token"
AMI = Path(sys.executable).parent / "ami"
LIMIT_S = 60.0

Running = subprocess.Popen[str]


def environment(tmp_path: Path, server: AntennaServer | None, **settings: object) -> dict[str, str]:
    """This environment without its own AMI_ variables, with fork (fast) and no pause unless told otherwise."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AMI")}
    base = {
        "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN,
        "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": "fork",
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS": "0.05",
        "AMI_INSTANCES": "1",
        "AMI_WORKER_SPOOL_DIR": str(tmp_path / "spool"),
        "AMIDIAG_RUNTIME_DIR": str(tmp_path / "run"),
    }
    if server is not None:
        base["AMI_ANTENNA_API_BASE_URL"] = server.base_url
    return clean | base | {k: str(v) for k, v in settings.items()}


def ended(process: Running) -> tuple[int, str, str]:
    """Wait for the end: exit code, standard output, standard error."""
    out, err = process.communicate(timeout=LIMIT_S)
    return process.returncode, out, err


def settings_for(server: AntennaServer, **changes: object) -> WorkerSettings:
    """Settings as read from an environment, for a worker in this process."""
    variables = {
        "AMI_ANTENNA_API_BASE_URL": server.base_url,
        "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN,
        "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": "fork",
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS": "0",
        "AMI_WORKER_SPOOL_DIR": "",
    }
    return read(Path("/dev/null"), variables | {k: str(v) for k, v in changes.items()}).settings


def traps(count: int, **changes: object) -> tuple[TrapSpec, ...]:
    """Small trap images of two sizes and formats."""
    return tuple(
        TrapSpec(
            seed=i, width=160 + 16 * (i % 2), height=120, format="png" if i % 5 == 0 else "jpeg", **changes
        )
        for i in range(count)
    )


def job(*images: TrapSpec | ImageSpec) -> JobSpec:
    """A job for the quicker of the two pipelines."""
    return JobSpec(pipeline="moth_binary", images=images)
