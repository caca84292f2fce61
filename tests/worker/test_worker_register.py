"""`ami worker register` against the embedded server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from model_kit import write_pipeline
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


def test_a_users_pipeline_is_registered_with_its_labels(
    server: AntennaServer, register: Callable[..., Result], tmp_path: Path
) -> None:
    write_pipeline(tmp_path / "models")
    chosen = {"AMI_MODELS_DIR": str(tmp_path / "models"), "AMI_PIPELINES": "moth_binary,colours"}
    result = register(server.base_url, "--project", "1", **chosen)
    assert "project 1: moth_binary, colours created" in result.stdout
    (registered,) = server.registered().values()
    described = registered.pipelines["colours"]
    detector, classifier = described["algorithms"]
    assert (detector["key"], detector["task_type"], detector["category_map"]) == (
        "bright_box",
        "localization",
        None,
    )
    assert classifier["category_map"]["labels"] == ["red", "green", "blue"]
    assert classifier["category_map"]["data"][2] == {"index": 2, "label": "blue"}


def test_every_mistake_in_a_manifest_is_a_line_and_nothing_is_registered(
    server: AntennaServer, register: Callable[..., Result], tmp_path: Path
) -> None:
    write_pipeline(tmp_path, "a", lambda text: text.replace("range = [0, 1]", "range = [0]"))
    write_pipeline(tmp_path, "b", lambda text: text.replace('name = "Colours"', ""))
    result = register(server.base_url, AMI_MODELS_DIR=str(tmp_path))
    assert (result.exit_code, server.registered()) == (78, {})
    said = [line.removeprefix(f"ami: bad setting: {tmp_path}/") for line in result.stderr.splitlines()]
    assert said == [
        "a/manifest.toml:10: detector.range: must be two numbers, as [0, 1], not [0]",
        "b/manifest.toml:1: name: is missing: text that is not empty",
    ]


def test_registering_does_not_import_torch(server: AntennaServer, tmp_path: Path) -> None:
    """It is done on hosts without an accelerator too, and need not take the seconds of that import."""
    program = (
        "import sys\nfrom worker.registration import register\nfrom worker.settings import read\n"
        "print(*register(read().settings, [1]))\nsys.exit('torch' in sys.modules)"
    )
    base = {"AMI_ANTENNA_API_BASE_URL": server.base_url, "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN}
    clean = {k: v for k, v in os.environ.items() if not k.startswith("AMI_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | base,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout[:9]) == (0, "project 1"), done.stderr


def test_what_fails_is_one_line_and_its_exit_code(
    server: AntennaServer, register: Callable[..., Result]
) -> None:
    nowhere = "http://127.0.0.1:1/api/v2"
    cases = [
        (69, "404", register(server.base_url, "--project", "99")),
        (77, "AMI_ANTENNA_API_AUTH_TOKEN", register(server.base_url, AMI_ANTENNA_API_AUTH_TOKEN="wrong")),
        (77, "is not set", register(server.base_url, AMI_ANTENNA_API_AUTH_TOKEN="")),
        (69, "Connection refused", register(nowhere)),
        (78, "AMI_PIPELINES=moths", register(server.base_url, AMI_PIPELINES="moths")),
    ]
    for code, text, result in cases:
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (code, "", 1)
        assert text in result.stderr


def test_without_a_free_fd_it_is_not_the_server_that_is_to_blame(
    server: AntennaServer, register: Callable[..., Result], tmp_path: Path
) -> None:
    program = (
        "import os, resource, sys\n"
        "from worker import cli\n"
        "from worker.antenna.client import AntennaClient as Client\n"
        "import worker.registration\n"
        "before = Client.projects\n"
        "def projects(self):\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/proc/self/fd')) - 1,) * 2)\n"
        "    return before(self)\n"
        "Client.projects = projects\n"
        "sys.argv = ['ami', 'worker', 'register']\n"
        "cli.run()\n"
    )
    env = {"AMI_ANTENNA_API_BASE_URL": server.base_url, "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 70, ended.stderr
    assert "EMFILE: Too many open files" in ended.stderr
