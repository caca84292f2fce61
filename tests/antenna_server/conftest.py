"""A real embedded server per test, and a worker's connection to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from antenna_client import TOKEN, Worker

from amidiag.soak.antenna import AntennaServer, ServerConfig


@pytest.fixture
def server() -> Iterator[AntennaServer]:
    with AntennaServer(ServerConfig(token=TOKEN)) as running:
        yield running


@pytest.fixture
def worker(server: AntennaServer) -> Iterator[Worker]:
    worker = Worker(server)
    with worker.session:
        yield worker
