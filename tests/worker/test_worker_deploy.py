"""The files under recipes/deploy: read by systemd's own checker, and run by the real supervisord."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import pytest
from worker_rig import AMI, LIMIT_S, environment, job, traps

from amidiag.soak.antenna import AntennaServer, ImageSpec
from worker import exit_codes
from worker.instances import drain_limit_s
from worker.settings import WorkerSettings

DEPLOY = Path(__file__).parents[2] / "recipes" / "deploy"
UNITS = ("ami-worker.service", "ami-worker@.service")
# And what the command line answers to an option that it does not have.
NOT_AGAIN = {2, exit_codes.REFUSED, exit_codes.BAD_SETTINGS}
# Of several workers, until their parent ends them, which takes two signals and a SIGKILL.
DRAIN_S = drain_limit_s(WorkerSettings()) + 6


def _verified(directory: Path, unit: str, text: str) -> str:
    """What systemd has to say against a unit."""
    (directory / unit).write_text(text.replace("/opt/ami-worker/bin/ami", str(AMI)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(directory / unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "".join(line for line in done.stderr.splitlines(keepends=True) if unit in line) + (
        f"exit code {done.returncode}" if done.returncode else ""
    )


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_has_nothing_against_a_unit(unit: str, tmp_path: Path) -> None:
    text = (DEPLOY / unit).read_text()
    assert _verified(tmp_path, unit, text) == ""
    assert "KillMod" in _verified(tmp_path, unit, text.replace("KillMode", "KillMod"))


@pytest.mark.parametrize("unit", UNITS)
def test_restart_rules_fit_the_exit_codes(unit: str) -> None:
    service = _service(unit)
    assert service["Restart"] == "always"
    assert {int(code) for code in service["RestartPreventExitStatus"].split()} == NOT_AGAIN
    assert int(service["SuccessExitStatus"]) == exit_codes.RECYCLE
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert _seconds(service["TimeoutStopSec"]) > DRAIN_S
    assert _seconds(service["WatchdogSec"]) >= WorkerSettings().watchdog_s


def test_the_template_is_the_unit_for_one_gpu() -> None:
    one, each = _service(UNITS[0]), _service(UNITS[1])
    differing = {key for key in {*one, *each} if one.get(key) != each.get(key)}
    assert differing <= {"Environment", "EnvironmentFile"}


def test_supervisor_follows_the_same_rules() -> None:
    program = _program()
    assert {int(code) for code in program["exitcodes"].split(",")} == NOT_AGAIN
    assert program["autorestart"] == "unexpected"
    assert int(program["stopwaitsecs"]) > DRAIN_S
    assert (program["stopasgroup"], program["killasgroup"]) == ("false", "true")


def _service(unit: str) -> Mapping[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / unit)
    return parser["Service"]


def _seconds(span: str) -> float:
    return 60 * float(span.removesuffix("min")) if span.endswith("min") else float(span)


def _program() -> dict[str, str]:
    parser = configparser.RawConfigParser(comment_prefixes=(";",))
    parser.read(DEPLOY / "ami-worker.supervisor.conf")
    return dict(parser["program:ami-worker"])


class Supervisor:
    """The real supervisord with the program of the shipped file, but for user and paths."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "supervisord.log"
        self.worker_log = directory / "worker.log"
        self._config = directory / "supervisord.conf"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, settings: Mapping[str, str]) -> None:
        env_file = self.directory / "worker.env"
        env_file.write_text("".join(f"{k}={v}\n" for k, v in settings.items() if k.startswith("AMI_")))
        program = _program() | {
            "command": f"{AMI} worker run --env-file {env_file}",
            "directory": str(self.directory),
            "stdout_logfile": str(self.worker_log),
            "environment": f'HOME="{self.directory}",AMIDIAG_RUNTIME_DIR="{self.directory}/run"',
        }
        del program["user"]
        lines = "".join(f"{key}={value}\n" for key, value in program.items())
        self._config.write_text(
            f"[unix_http_server]\nfile={self.directory}/s\n[supervisord]\nnodaemon=true\nminfds=1024\n"
            f"logfile={self.log}\npidfile={self.directory}/pid\nchildlogdir={self.directory}\n"
            f"[supervisorctl]\nserverurl=unix://{self.directory}/s\n"
            "[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[program:ami-worker]\n{lines}"
        )
        clean = {key: value for key, value in os.environ.items() if not key.startswith("AMI")}
        self._process = subprocess.Popen(
            ["/usr/bin/supervisord", "-c", str(self._config)],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def ctl(self, *words: str) -> str:
        done = subprocess.run(
            ["/usr/bin/supervisorctl", "-c", str(self._config), *words],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return done.stdout

    def wait_for_log(self, text: str) -> None:
        _until(lambda: self.log.is_file() and text in self.log.read_text(), f"{text!r} in {self.log}")

    def stop(self) -> None:
        if self._process is None:
            return
        below = psutil.Process(self._process.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(LIMIT_S / 2)
        except subprocess.TimeoutExpired:
            # It loses a signal that comes between fork and exec of its program.
            for process in [*below, self._process]:
                process.kill()
            self._process.wait()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    made = Supervisor(tmp_path)
    yield made
    made.stop()


def _until(holds: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def test_sigusr1_in_the_middle_of_a_job(
    serve: Callable[..., AntennaServer], supervisor: Supervisor, tmp_path: Path
) -> None:
    """The batch in hand is posted, the new process finishes the job; nothing is lost, and nothing answered twice."""
    server = serve(visibility_timeout_s=8)
    # Half a second for each batch: the signal comes early in the job.
    number = server.add_job(job(*(ImageSpec(trap, slow_s=0.5) for trap in traps(40))))
    supervisor.start(environment(tmp_path, server, AMI_ANTENNA_API_BATCH_SIZE=4, AMI_VISIBILITY_TIMEOUT_S=8))
    _until(lambda: server.state().results >= 4, "the first batch")
    first = supervisor.ctl("pid", "ami-worker").strip()
    supervisor.ctl("signal", "USR1", "ami-worker")
    supervisor.wait_for_log("exited: ami-worker (exit status 0; not expected)")
    _until(lambda: server.state().results >= 40, "the rest of the job")
    assert supervisor.ctl("pid", "ami-worker").strip() not in ("0", first)
    state = server.state()
    assert (state.results, state.errors, state.answered_twice) == (40, 0, 0)
    assert state.jobs[number].lost == 0
    # Each has done a part of it.
    first_part, *rest = _answered(supervisor)
    assert 4 <= first_part < 40
    assert sum([first_part, *rest]) == 40
    # Told to stop, it is not started again.
    supervisor.ctl("stop", "ami-worker")
    assert "STOPPED" in supervisor.ctl("status", "ami-worker")
    assert supervisor.worker_log.read_text().count("drained") == 2


def _answered(supervisor: Supervisor) -> list[int]:
    """How many images each visit to a job has answered."""
    return [int(n) for n in re.findall(r": (\d+) images answered", supervisor.worker_log.read_text())]


def test_a_worker_that_wants_to_be_replaced_is(
    server: AntennaServer, supervisor: Supervisor, tmp_path: Path
) -> None:
    for _ in range(2):
        server.add_job(job(*traps(2)))
    supervisor.start(environment(tmp_path, server, AMI_WORKER_MAX_JOBS=1))
    _until(lambda: server.state().results >= 4, "both jobs")
    supervisor.wait_for_log("exited: ami-worker (exit status 75; not expected)")
    assert server.state().answered_twice == 0


@pytest.mark.parametrize(
    ("changes", "code"), [({"AMI_NUM_WORKERS": "many"}, 78), ({"AMI_ANTENNA_API_AUTH_TOKEN": "wrong"}, 77)]
)
def test_what_somebody_has_to_look_at_is_not_tried_again(
    server: AntennaServer, supervisor: Supervisor, tmp_path: Path, changes: dict[str, str], code: int
) -> None:
    supervisor.start(environment(tmp_path, server, **changes))
    supervisor.wait_for_log(f"exited: ami-worker (exit status {code}; expected)")
    time.sleep(1.5)
    assert supervisor.log.read_text().count("spawned") == 1
    assert "EXITED" in supervisor.ctl("status", "ami-worker")
