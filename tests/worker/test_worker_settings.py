"""The settings: upstream's names and defaults, every mistake named, nothing silently ignored."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from worker_rig import ended

from amidiag.report.json_schema import schema
from worker import settings_report
from worker.settings import SettingsError, UnknownSetting, fields, public, read

UPSTREAM = {
    "AMI_ANTENNA_API_BASE_URL": "http://localhost:8000/api/v2",
    "AMI_ANTENNA_API_BATCH_SIZE": 24,
    "AMI_ANTENNA_SERVICE_NAME": "AMI Data Companion",
    "AMI_PIPELINES": "",
    "AMI_NUM_WORKERS": 1,
    "AMI_LOCALIZATION_BATCH_SIZE": 8,
    "AMI_CLASSIFICATION_BATCH_SIZE": 20,
    "AMI_CLASSIFICATION_THRESHOLD": 0.6,
    "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": "forkserver",
    "AMI_ANTENNA_API_DATALOADER_TIMEOUT_S": 300,
    "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": None,
    "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR": 4,
    "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS": False,
    "AMI_ANTENNA_API_DATALOADER_DOWNLOAD_THREADS": 8,
    "AMI_ANTENNA_MAX_PENDING_POSTS": 5,
    "AMI_ANTENNA_IDLE_SLEEP_SECONDS": 5,
    "AMI_ANTENNA_UNREACHABLE_LIMIT_S": 600,
}
# What the public worker has not; most of it is a mitigation.
OURS = {
    "AMI_ANTENNA_API_DATALOADER_LIFETIME": "worker",
    "AMI_AVOID_TORCH_ATEXIT_LEAK": True,
    "AMI_VISIBILITY_TIMEOUT_S": 30,
    "AMI_IMAGE_MAX_BYTES": 512 * 1024**2,
    "AMI_IMAGE_MAX_PIXELS": 200_000_000,
    "AMI_IMAGE_TIMEOUT_S": 120,
    "AMI_IMAGE_CACHE_MAX_BYTES": 64 * 1024**2,
    "AMI_STAGING_DIR": "",
    "AMI_STAGING_MAX_BYTES": 8 * 1024**3,
    "AMI_MEMORY_BUDGET": "70%",
    "AMI_AUTOTUNE": True,
    "AMI_MODELS_DIR": "",
    "AMI_MAX_RESIDENT_PIPELINES": 0,
    "AMI_INSTANCES": 0,
    "AMI_CACHE_DRAIN": True,
    "AMI_DIAG_TRACE": False,
    "AMI_WORKER_WATCHDOG_S": 0,
    "AMI_WORKER_DRAIN_LIMIT_S": 60,
    "AMI_WORKER_SPOOL_DIR": "auto",
    "AMI_WORKER_SPOOL_MAX_BYTES": 1024**3,
    "AMI_WORKER_MAX_FDS_PERCENT": 80,
    "AMI_WORKER_MAX_MEMORY": "90%",
    "AMI_WORKER_MAX_AGE_S": 0,
    "AMI_WORKER_MAX_JOBS": 0,
    "AMI_WORKER_LOG_FORMAT": "text",
    "AMI_METRICS_PORT": 0,
    "AMI_METRICS_ADDRESS": "127.0.0.1",
}
NO_FILE = Path("/dev/null")


def test_an_empty_environment_gives_upstreams_defaults() -> None:
    loaded = read(NO_FILE, {})
    assert public(loaded.settings) == UPSTREAM | OURS
    assert set(loaded.sources.values()) == {"default"}


def test_the_environment_wins_over_the_file_and_the_source_is_told(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text("AMI_NUM_WORKERS=3\nexport AMI_ANTENNA_API_BATCH_SIZE='7'\nami_pipelines=a, b\n")
    loaded = read(file, {"AMI_NUM_WORKERS": "2"})
    assert (loaded.settings.num_workers, loaded.settings.antenna_api_batch_size) == (2, 7)
    assert loaded.settings.pipeline_slugs == ("a", "b")
    assert loaded.sources["AMI_NUM_WORKERS"] == "environment"
    assert loaded.sources["AMI_ANTENNA_API_BATCH_SIZE"] == str(file)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("AMI_ANTENNA_API_BASE_URL", "localhost:8000", "http://"),
        ("AMI_ANTENNA_API_BASE_URL", "http://host:99999/api/v2", "http://"),
        ("AMI_NUM_WORKERS", "-1", "≥ 0"),
        ("AMI_NUM_WORKERS", "two", "whole number"),
        ("AMI_ANTENNA_API_BATCH_SIZE", "0", "≥ 1"),
        ("AMI_CLASSIFICATION_THRESHOLD", "1.5", "from 0 to 1"),
        ("AMI_ANTENNA_API_DATALOADER_MP_CONTEXT", "thread", "forkserver"),
        ("AMI_ANTENNA_API_DATALOADER_PIN_MEMORY", "maybe", "true, false, auto"),
        ("AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR", "0", "≥ 1"),
        ("AMI_ANTENNA_API_DATALOADER_TIMEOUT_S", "-1", "≥ 0"),
        ("AMI_ANTENNA_API_DATALOADER_TIMEOUT_S", "inf", "≥ 0"),
        ("AMI_ANTENNA_IDLE_SLEEP_SECONDS", "inf", "≥ 0"),
        ("AMI_ANTENNA_UNREACHABLE_LIMIT_S", "inf", "> 0"),
        ("AMI_ANTENNA_API_DATALOADER_LIFETIME", "batch", "worker or job"),
        ("AMI_VISIBILITY_TIMEOUT_S", "-1", "≥ 0"),
        ("AMI_IMAGE_MAX_BYTES", "0", "number of bytes"),
        ("AMI_IMAGE_MAX_BYTES", "10X", "K, M, G or T"),
        ("AMI_MEMORY_BUDGET", "120%", "up to 100 %"),
        ("AMI_MEMORY_BUDGET", "much", "up to 100 %"),
        ("AMI_STAGING_MAX_BYTES", "none", "number of bytes"),
        ("AMI_INSTANCES", "-1", "≥ 0"),
        ("AMI_ANTENNA_MAX_PENDING_POSTS", "0", "≥ 1"),
        ("AMI_ANTENNA_UNREACHABLE_LIMIT_S", "0", "> 0"),
        ("AMI_ANTENNA_SERVICE_NAME", "", "not empty"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as e:
        read(NO_FILE, {name: value})
    (problem,) = e.value.problems
    assert (problem.setting, problem.value) == (name, value)
    assert allowed in problem.allowed


def test_a_line_that_cannot_be_read_is_refused_and_its_value_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "my.env"
    file.write_text('AMI_NUM_WORKERS=2\nAMI_ANTENNA_API_AUTH_TOKEN="hush\n')
    with pytest.raises(SettingsError) as e:
        read(file, {})
    assert str(e.value) == f"line 2 ({file}): must be NAME=value; is there a quote that is not closed?"


def test_a_misspelt_name_is_told_beside_a_bad_value() -> None:
    with pytest.raises(SettingsError) as e:
        read(NO_FILE, {"AMI_NUM_WORKERS": "two", "AMI_CACHE_DRIAN": "false"})
    assert [u.nearest for u in e.value.unknown] == ["AMI_CACHE_DRAIN"]


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("0", 0), ("1000", 1000), ("64K", 65536), ("1.5GiB", 3 * 2**29), ("2 mb", 2**21), ("1T", 2**40)],
)
def test_a_size_may_have_a_unit(text: str, bytes_: int) -> None:
    assert read(NO_FILE, {"AMI_IMAGE_CACHE_MAX_BYTES": text}).settings.image_cache_max_bytes == bytes_


@pytest.mark.parametrize(
    ("text", "share", "bytes_"),
    [("70%", 0.7, None), ("0", None, 0), ("4GiB", None, 2**32), ("0%", 0.0, None)],
)
def test_the_budget_is_a_share_or_a_size(text: str, share: float | None, bytes_: int | None) -> None:
    settings = read(NO_FILE, {"AMI_MEMORY_BUDGET": text}).settings
    assert (settings.memory_share, settings.memory_bytes) == (share, bytes_)


@pytest.mark.parametrize(
    ("value", "shown", "allowed"),
    [
        ("http://me:hush@host/api/v2", "http://…@host/api/v2", "without a user name"),
        ("http://:hush@host/api/v2", "http://…@host/api/v2", "without a user name"),
        ("http://me:hu/hush@host/api/v2", "http://…@host/api/v2", "without a user name"),
        ("me:hush@host/api/v2", "…@host/api/v2", "http://"),
        ("http://host/api/v2?token=hush", "http://host/api/v2?…", "without ?"),
    ],
)
def test_a_secret_in_the_address_is_refused_and_not_repeated(value: str, shown: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as e:
        read(NO_FILE, {"AMI_ANTENNA_API_BASE_URL": value})
    (problem,) = e.value.problems
    assert problem.value == shown
    assert allowed in problem.allowed
    assert "hush" not in str(e.value)


@pytest.mark.parametrize("token", ["hush\nhush", "hush\x00", "hüsh"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    """http.client would refuse it later, and quote it in its error."""
    with pytest.raises(SettingsError) as e:
        read(NO_FILE, {"AMI_ANTENNA_API_AUTH_TOKEN": token})
    assert str(e.value) == (
        "AMI_ANTENNA_API_AUTH_TOKEN (environment): must be printable ASCII text, since it is sent in a header"
    )


def test_a_line_break_after_the_token_is_no_part_of_it() -> None:
    token = read(NO_FILE, {"AMI_ANTENNA_API_AUTH_TOKEN": "hush-hush\r\n"}).settings.antenna_api_auth_token
    assert token.get_secret_value() == "hush-hush"


def test_a_name_without_a_value_is_not_ignored(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("AMI_NUM_WORKERS\nAMI_XYZZY\n")
    with pytest.raises(SettingsError, match=r"AMI_NUM_WORKERS= \("):
        read(file, {})
    assert [u.name for u in read(file, {"AMI_NUM_WORKERS": "1"}).unknown] == ["AMI_XYZZY"]


def test_every_start_method_of_the_platform_and_none_are_accepted() -> None:
    for method in ["", *multiprocessing.get_all_start_methods()]:
        loaded = read(NO_FILE, {"AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": method})
        assert loaded.settings.antenna_api_dataloader_mp_context == method


@pytest.mark.parametrize(
    ("written", "nearest"),
    [
        ("AMI_NUM_WORKER", "AMI_NUM_WORKERS"),
        ("AMI_PIN_MEMORY", "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY"),
        ("AMI_ANTENNA_DATALOADER_PREFETCH_FACTOR", "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR"),
        ("AMI_XYZZY", None),
    ],
)
def test_an_unknown_variable_is_reported_with_the_nearest_known(written: str, nearest: str | None) -> None:
    assert read(NO_FILE, {written: "1"}).unknown == (UnknownSetting(written, nearest, "environment"),)


def test_upstream_variables_without_use_are_named_in_one_line_and_are_not_unknown() -> None:
    loaded = read(NO_FILE, {"AMI_DATABASE_URL": "x", "AMI_LOCALIZATION_MODEL": "y", "AMIDIAG_X": "z"})
    (line,) = settings_report.remarks(loaded)
    assert "AMI_DATABASE_URL, AMI_LOCALIZATION_MODEL" in line
    assert loaded.unknown == ()


def test_env_example_uncommented_is_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    lines = settings_report.env_example().splitlines()
    file.write_text("\n".join(line.removeprefix("#") for line in lines if not line.startswith("# ")))
    loaded = read(file, {})
    assert public(loaded.settings) == UPSTREAM | OURS
    assert set(loaded.sources) == set(fields())
    assert set(loaded.sources.values()) == {str(file)}


def test_the_token_is_in_no_output() -> None:
    loaded = read(NO_FILE, {"AMI_ANTENNA_API_AUTH_TOKEN": "hush-hush"})
    shown = [repr(loaded), str(public(loaded.settings)), settings_report.table(loaded)]
    shown.append(str(settings_report.data(loaded)))
    assert not [text for text in shown if "hush-hush" in text]
    assert settings_report.MASK in shown[2]


def envelope_of(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    assert (value["schema"], value["command"]) == ("amidiag/1", "worker settings")
    return value


def test_the_settings_command_prints_one_envelope(start: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("AMI_NUM_WORKERS=2\nAMI_PREFETCH=3\n")
    code, out, err = ended(start("settings", "--json"))
    value = envelope_of(out)
    Draft202012Validator(schema()).validate(value)
    rows = {row["name"]: row for row in value["data"]["settings"]}
    assert (code, err, value["exit_code"]) == (0, "", 0)
    assert rows["AMI_NUM_WORKERS"] | {"value": 2, "default": 1, "source": ".env"} == rows["AMI_NUM_WORKERS"]
    assert rows["AMI_ANTENNA_API_AUTH_TOKEN"]["value"] == settings_report.MASK
    assert [u["name"] for u in value["data"]["unknown"]] == ["AMI_PREFETCH"]


def test_bad_settings_end_with_78_and_one_line_each(start: Any) -> None:
    bad = {"AMI_NUM_WORKERS": "-1", "AMI_ANTENNA_API_DATALOADER_TIMEOUT_S": "soon"}
    code, out, err = ended(start("run", **bad))
    assert (code, out) == (78, "")
    assert [line.split("=")[0] for line in err.splitlines()] == [f"ami: bad setting: {name}" for name in bad]
    code, out, _ = ended(start("settings", "--json", **bad))
    assert (code, envelope_of(out)["exit_code"]) == (78, 78)
    code, _, err = ended(start("run", "--env-file", "nowhere.env"))
    assert (code, err.count("\n")) == (78, 1)
    assert "nowhere.env" in err


def test_a_pipeline_that_is_not_built_in_ends_with_78(start: Any) -> None:
    code, _, err = ended(start("run", AMI_PIPELINES="moth_binary,butterflies"))
    assert code == 78
    assert err.splitlines()[-1].startswith("ami: bad setting: AMI_PIPELINES=moth_binary,butterflies")
    assert "trap_species" in err


def test_help_and_settings_do_not_import_torch() -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom worker.cli import app\n"
        "for words in (['--help'], ['worker', 'run', '--help'], ['worker', 'tune', '--help'],\n"
        "              ['worker', 'settings']):\n"
        "    result = CliRunner().invoke(app, words)\n"
        "    assert result.exit_code == 0, result.output\n"
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_env_example_is_the_one_that_the_settings_print() -> None:
    path = Path(__file__).parents[2] / ".env.example"
    assert path.read_text(encoding="utf-8") == settings_report.env_example(), (
        "run: ami worker settings --env-example > .env.example"
    )
