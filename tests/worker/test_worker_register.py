"""`ami worker register` against the embedded server."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result
from worker_rig import TOKEN

from amidiag.soak.antenna import AntennaServer
from worker.cli import app


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name in [n for n in os.environ if n.startswith("AMI_")]:
        monkeypatch.delenv(name)

    def run(base_url: str, *words: str, **settings: str) -> Result:
        base = {"AMI_ANTENNA_API_BASE_URL": base_url, "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN}
        return CliRunner().invoke(app, ["worker", "register", *words], env=base | settings)

    return run


def test_one_project_gets_every_pipeline_under_the_name_with_the_host(
    server: AntennaServer, register: Callable[..., Result]
) -> None:
    result = register(server.base_url, "--project", "1", AMI_ANTENNA_SERVICE_NAME="Traps")
    name = f"Traps ({socket.gethostname()})"
    said = f"project 1: moth_binary, trap_species created, none updated, as {name}"
    assert (result.exit_code, result.stdout.splitlines()) == (0, [said])
    assert server.registered()[name].projects == (1,)
    again = register(server.base_url, "--project", "1", AMI_ANTENNA_SERVICE_NAME="Traps")
    assert "none created, moth_binary, trap_species updated" in again.stdout


def test_without_a_project_all_that_are_listed_get_the_chosen_pipelines(
    serve: Callable[..., AntennaServer], register: Callable[..., Result]
) -> None:
    server = serve(projects=("one", "two"))
    result = register(server.base_url, AMI_PIPELINES="trap_species")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 2)
    (registered,) = server.registered().values()
    assert registered.projects == (1, 2)
    assert set(registered.pipelines) == {"trap_species"}


def test_what_fails_is_one_line_and_its_exit_code(
    server: AntennaServer, register: Callable[..., Result]
) -> None:
    nowhere = "http://127.0.0.1:1/api/v2"
    cases = [
        (70, "404", register(server.base_url, "--project", "99")),
        (77, "AMI_ANTENNA_API_AUTH_TOKEN", register(server.base_url, AMI_ANTENNA_API_AUTH_TOKEN="wrong")),
        (77, "is not set", register(server.base_url, AMI_ANTENNA_API_AUTH_TOKEN="")),
        (69, "Connection refused", register(nowhere)),
        (78, "AMI_PIPELINES=moths", register(server.base_url, AMI_PIPELINES="moths")),
    ]
    for code, text, result in cases:
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
        assert text in result.stderr
