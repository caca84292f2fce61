"""A worker as a process or in this one, against the embedded Antenna server."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from worker_rig import AMI, TOKEN, Running, environment, settings_for

from amidiag.soak.antenna import AntennaServer, ServerConfig
from amidiag.target.status_page import StatusPage
from worker.antenna.client import AntennaClient
from worker.draining import Drain
from worker.guard.watchdog import Watchdog
from worker.loop import Worker
from worker.pipelines import PIPELINES, load_pipeline
from worker.pipelines.resident import ResidentPipelines

# As `ami worker run` does: on two shared cores OpenMP threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture
def serve() -> Iterator[Callable[..., AntennaServer]]:
    """Start a server with what the test wants of it."""
    servers: list[AntennaServer] = []

    def start(**config: object) -> AntennaServer:
        server = AntennaServer(ServerConfig(token=TOKEN, **config))
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def server(serve: Callable[..., AntennaServer]) -> AntennaServer:
    return serve()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start `ami worker …` in an empty directory; what still runs at the end of the test is killed."""
    running: list[Running] = []

    def begin(*words: str, server: AntennaServer | None = None, **settings: object) -> Running:
        process = subprocess.Popen(
            [str(AMI), "worker", *words],
            env=environment(tmp_path, server, **settings),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StatusPage]:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(tmp_path / "run"))
    page = StatusPage.create()
    assert page.error is None
    yield page
    page.close()


@pytest.fixture
def worker(page: StatusPage) -> Iterator[Callable[..., Worker]]:
    """A worker in this process, whose counters are on `page`."""
    clients: list[AntennaClient] = []

    def make(server: AntennaServer, **changes: object) -> Worker:
        settings = settings_for(server, **changes)
        client = AntennaClient(settings.antenna_api_base_url, TOKEN)
        clients.append(client)
        device = torch.device("cpu")
        return Worker(
            settings,
            client=client,
            page=page,
            drain=Drain(),
            slugs=settings.pipeline_slugs or PIPELINES,
            load=ResidentPipelines(lambda slug: load_pipeline(slug, device=device), 0).get,
            device=device,
            watchdog=Watchdog(),
        )

    yield make
    for client in clients:
        client.close()
