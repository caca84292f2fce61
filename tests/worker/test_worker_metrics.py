"""What Prometheus reads of a worker, over real HTTP; at EMFILE, with a hung main thread, and after its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from worker_rig import LIMIT_S, Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer
from amidiag.target.status_page import StatusPage
from worker.metrics import Exposition, served
from worker.metrics_server import REQUEST_LIMIT_S, Answer, MetricsServer
from worker.settings import SettingsError, WorkerSettings, read

Start = Callable[..., Running]
Samples = dict[tuple[str, str], float]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _settings(port: int, **more: str) -> WorkerSettings:
    variables = {"AMI_METRICS_PORT": str(port), "AMI_ANTENNA_API_AUTH_TOKEN": "trap-token", **more}
    return read(Path("/dev/null"), variables).settings


def _get(port: int, path: str = "/metrics", limit: float = LIMIT_S) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=limit) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


def _samples(port: int) -> Samples:
    status, text = _get(port)
    assert status == 200
    return {
        (sample.name.removeprefix("ami_worker_"), ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_state_and_use(page: StatusPage, port: int, tmp_path: Path) -> None:
    kept = tmp_path / "spool" / "server" / "worker"
    kept.mkdir(parents=True)
    (kept / "1-2-3.json").write_text("{}")
    page.count("images", 24)
    page.state("posting")
    page.caches({"image files": {"entries": 2, "bytes": 100}})
    with served(_settings(port), page, lambda: tmp_path / "spool"):
        seen = _samples(port)
    assert seen["images_total", ""] == 24
    assert seen["polls_total", ""] == 0
    assert (seen["state", "posting"], seen["state", "idle"]) == (1, 0)
    assert (seen["cache_entries", "image files"], seen["cache_bytes", "image files"]) == (2, 100)
    assert (seen["spool_posts", ""], seen["spool_bytes", ""]) == (1, 2)
    assert seen["healthy", ""] == 1
    assert 0 <= seen["progress_age_seconds", ""] < LIMIT_S
    assert seen["fds_open", ""] == sum(value for (name, _), value in seen.items() if name == "fds") > 3
    assert seen["memory_bytes", "anonymous"] > 2**20
    assert seen["tree_memory_bytes", ""] >= seen["memory_bytes", "anonymous"] / 2
    assert seen["start_time_seconds", ""] <= time.time()


def test_health_is_a_status_code(page: StatusPage, port: int) -> None:
    with served(_settings(port), page):
        assert _get(port, "/health")[0] == 200
        page.health(False, "hangs at a batch")
        status, text = _get(port, "/health")
        assert status == 503
        said = json.loads(text)
        assert said["why"] == "hangs at a batch"
        # With its zone, to the second, as `amidiag fds --json` has it.
        assert said["since"].endswith("+00:00")
        assert 0 <= time.time() - datetime.fromisoformat(said["since"]).timestamp() < LIMIT_S
        assert _samples(port)["healthy", ""] == 0


def test_the_root_says_what_there_is(page: StatusPage, port: int) -> None:
    with served(_settings(port), page):
        assert _get(port, "/") == (200, "There is: /metrics, /health\n")
        assert _get(port, "/other")[0] == 404


def test_without_a_port_nothing_is_opened(page: StatusPage) -> None:
    before = os.listdir("/proc/self/fd")
    with served(_settings(0), page):
        assert os.listdir("/proc/self/fd") == before


def test_a_page_that_could_not_be_made_does_not_cost_the_rest(port: int) -> None:
    with served(_settings(port), StatusPage()):
        assert ("fds_open", "") in _samples(port)
        status, text = _get(port, "/health")
    assert (status, json.loads(text)["ok"]) == (200, None)


def test_a_port_that_is_taken_is_a_bad_setting(
    page: StatusPage, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.metrics_server._TAKEN_LIMIT_S", 0.0)
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(SettingsError) as raised,
        served(_settings(port), page),
    ):
        pass
    assert f"AMI_METRICS_PORT={port}" in str(raised.value)
    assert "in use" in str(raised.value)


def test_a_port_that_becomes_free_is_waited_for(page: StatusPage, port: int) -> None:
    code = f"import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\nprint(flush=True)\ntime.sleep(0.5)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    with served(_settings(port), page):
        assert _get(port)[0] == 200
    holder.communicate()


@pytest.mark.parametrize(
    "said", [b"", b"GET /health HTTP/1.1\r\n", b"x" * 40_000, b"\r\n\r\n", b"\xff\r\n\r\n"]
)
def test_a_client_that_does_not_get_on_is_left(port: int, said: bytes) -> None:
    pages = {"/health": lambda: Answer(200, "text/plain", b"well")}
    with MetricsServer("127.0.0.1", port, pages), socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(said)
        assert _get(port, "/health", 10 * REQUEST_LIMIT_S) == (200, "well")


def test_ipv6(port: int) -> None:
    with MetricsServer("::1", port, {"/health": lambda: Answer(200, "text/plain", b"well")}) as server:
        assert server.url == f"http://[::1]:{port}/metrics"
        with urllib.request.urlopen(f"http://[::1]:{port}/health", timeout=LIMIT_S) as answer:
            assert answer.read() == b"well"


EMFILE = """
import os, resource, sys, time
from pathlib import Path
from amidiag.target.status_page import StatusPage
from worker.metrics import served
from worker.settings import read
page = StatusPage.create()
page.count("images", 7)
settings = read(Path("/dev/null"), {"AMI_METRICS_PORT": sys.argv[1]}).settings
with served(settings, page):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True: os.dup(0)
    except OSError as e:
        print(e.errno, flush=True)
    time.sleep(60)
"""


def test_at_emfile_it_answers_again_and_again(port: int, tmp_path: Path) -> None:
    environ = {**os.environ, "AMIDIAG_RUNTIME_DIR": str(tmp_path / "run")}
    process = subprocess.Popen(
        [sys.executable, "-c", EMFILE, str(port)], stdout=subprocess.PIPE, text=True, env=environ
    )
    assert process.stdout is not None and process.stdout.readline() == "24\n"
    try:
        for _ in range(3):
            seen = _samples(port)
            assert seen["images_total", ""] == 7
            assert seen["fds_limit", ""] == 64
            assert seen["fds_open", ""] >= 60
            assert seen["memory_bytes", "anonymous"] > 2**20
    finally:
        process.kill()
        process.communicate()


def test_of_a_worker_and_its_successor(server: AntennaServer, start: Start, port: int) -> None:
    """Killed with its loader process alive: the port is free for the next one."""
    server.add_job(job(*traps(3)))
    process = start("run", server=server, AMI_METRICS_PORT=port)
    limit = time.monotonic() + LIMIT_S
    while server.state().results < 3:
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    seen = _samples(port)
    assert seen["batches_total", ""] == 1
    assert seen["children", ""] >= 1
    process.kill()
    process.communicate()
    second = start("run", server=server, AMI_METRICS_PORT=port)
    while not _is_up(port):
        assert time.monotonic() < limit and second.poll() is None
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    code, _, err = ended(second)
    assert code == 0
    assert f"metrics on http://127.0.0.1:{port}/metrics" in err
    assert not _is_up(port)


def _is_up(port: int) -> bool:
    try:
        return _get(port, "/health")[0] == 200
    except OSError:
        return False


def test_a_spool_that_changes_meanwhile_costs_nothing_else(
    tmp_path: Path, page: StatusPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends takes its directory away between two looks."""
    gone = tmp_path / "server" / "worker"
    gone.mkdir(parents=True)
    before = os.scandir

    def scandir(path: Any) -> Any:
        if str(path) == str(gone) and gone.exists():
            gone.rmdir()
        return before(path)

    monkeypatch.setattr(os, "scandir", scandir)
    text = Exposition(page, lambda: tmp_path).metrics().body.decode()
    assert not gone.exists()
    assert "ami_worker_fds_open" in text
    assert "ami_worker_spool_posts" not in text
