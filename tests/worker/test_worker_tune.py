"""`ami worker tune`: it loses no task, its advice fits, it writes only what it changes, and it never fails loudly."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from typer.testing import CliRunner
from worker_rig import AMI, environment, job, traps

from amidiag.model import TunedSetting, TuneMachine, TuneSample
from amidiag.report.json_schema import schema
from amidiag.soak.antenna import AntennaServer
from worker import env_file
from worker.cli import app
from worker.guard.advice import Advice, Adviser
from worker.settings import WorkerSettings, read
from worker.settings_report import as_text

MIB = 1 << 20
GIB = 1 << 30
BATCH = "AMI_ANTENNA_API_BATCH_SIZE"
PREFETCH = "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR"
THREADS = "AMI_ANTENNA_API_DATALOADER_DOWNLOAD_THREADS"
PINNING = "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY"

MACHINE = TuneMachine(
    memory_total=64 * GIB,
    memory_available=60 * GIB,
    cgroup_limit=None,
    cgroup_used=None,
    dev_shm_size=32 * GIB,
    dev_shm_room=32 * GIB,
    cpus=8,
    accelerator=None,
    budget=40 * GIB,
    budget_why="memory budget 40 GiB",
)
# 12 megapixels; all of it is quick but the inference.
SAMPLE = TuneSample(
    job_id=1,
    pipeline="moth_binary",
    images=8,
    errors=0,
    pixels=4096 * 3072,
    largest_pixels=4096 * 3072,
    file_bytes=4 * MIB,
    download_s=0.01,
    downloads_at_once=4,
    decode_s=0.02,
    inference_s=0.1,
    parent_bytes=200 * MIB,
    work_bytes=40 * MIB,
)


def settings(**changes: object) -> WorkerSettings:
    return read(Path("/dev/null"), {k: str(v) for k, v in changes.items()}).settings


def advice(
    sample: TuneSample = SAMPLE, machine: TuneMachine = MACHINE, **changes: object
) -> tuple[Advice, dict[str, TunedSetting]]:
    found = Adviser(settings(**changes), sample, machine, as_text).advise({})
    return found, {one.setting: one for one in found.recommended}


def said(of: dict[str, TunedSetting], name: str) -> str:
    return of[name].value


def test_with_plenty_of_everything_it_is_the_defaults_with_less_ahead() -> None:
    found, of = advice()
    assert (said(of, BATCH), said(of, PREFETCH), said(of, "AMI_NUM_WORKERS")) == ("24", "2", "1")
    assert (said(of, THREADS), said(of, PINNING), said(of, "AMI_STAGING_DIR")) == ("8", "auto", "")
    assert found.then.dev_shm == 3 * 24 * 36 * MIB
    assert found.now.dev_shm == 5 * 24 * 36 * MIB
    assert found.then.total < found.now.total


def test_every_reason_and_value_stands_alone() -> None:
    _, of = advice()
    assert len(of) == 7
    assert all(one.why and "\n" not in one.why for one in of.values())
    # Each is a value that the worker takes.
    read(Path("/dev/null"), {name: one.value for name, one in of.items()})


@pytest.mark.parametrize("budget", [1, 2, 3, 4, 8, 16])
def test_what_is_recommended_fits_into_the_budget(budget: int) -> None:
    found, of = advice(machine=replace(MACHINE, budget=budget * GIB))
    assert found.then.total <= budget * GIB
    assert int(said(of, BATCH)) >= 1


def test_the_same_holds_once_it_is_set() -> None:
    """What was chosen by tuning is then set by hand: the forecast of a worker that reads it is the same."""
    small = replace(MACHINE, budget=3 * GIB)
    first, of = advice(machine=small)
    again, _ = advice(machine=small, **{name: one.value for name, one in of.items()})
    assert again.now.total == first.then.total


def test_a_small_dev_shm_bounds_too() -> None:
    found, _ = advice(machine=replace(MACHINE, dev_shm_room=300 * MIB))
    assert found.then.dev_shm <= 300 * MIB


def test_slow_decoding_gets_more_loader_processes_as_far_as_there_are_cpus() -> None:
    slow = replace(SAMPLE, decode_s=0.35)
    assert said(advice(slow)[1], "AMI_NUM_WORKERS") == "4"
    assert said(advice(slow, replace(MACHINE, cpus=2))[1], "AMI_NUM_WORKERS") == "1"
    assert said(advice(slow, replace(MACHINE, cpus=3, accelerator="a GPU"))[1], "AMI_NUM_WORKERS") == "2"


def test_fewer_loader_processes_where_memory_is_short() -> None:
    slow = replace(SAMPLE, decode_s=0.35)
    _, of = advice(slow, replace(MACHINE, budget=2 * GIB))
    assert int(said(of, "AMI_NUM_WORKERS")) < 4
    assert "memory is short" in of["AMI_NUM_WORKERS"].why


def test_slow_downloads_get_more_threads_and_wait_on_disk_where_memory_is_short() -> None:
    slow = replace(SAMPLE, download_s=0.5)
    _, of = advice(slow)
    # One takes 2 s, and every 80 ms one has to come.
    assert (said(of, THREADS), said(of, "AMI_STAGING_DIR")) == ("25", "")
    _, of = advice(slow, replace(MACHINE, budget=2 * GIB))
    assert said(of, "AMI_STAGING_DIR")
    _, of = advice(slow, replace(MACHINE, budget=2 * GIB), AMI_STAGING_DIR="/data/staged")
    assert said(of, "AMI_STAGING_DIR") == "/data/staged"


def test_pinning_only_where_there_is_an_accelerator() -> None:
    assert said(advice(**{PINNING: "true"})[1], PINNING) == "auto"
    assert (
        said(advice(machine=replace(MACHINE, accelerator="a GPU"), **{PINNING: "true"})[1], PINNING) == "true"
    )
    tight = replace(MACHINE, accelerator="a GPU", budget=GIB)
    assert said(advice(machine=tight)[1], PINNING) == "false"


def test_slow_inference_makes_batches_that_can_be_answered_in_time() -> None:
    assert int(said(advice(replace(SAMPLE, inference_s=2.0))[1], BATCH)) == 6


def test_without_a_budget_one_is_recommended() -> None:
    _, of = advice(machine=replace(MACHINE, budget=None), AMI_MEMORY_BUDGET=0)
    assert (said(of, "AMI_MEMORY_BUDGET"), of["AMI_MEMORY_BUDGET"].current) == ("70%", "0")


def test_the_command_answers_what_it_takes_and_its_json_keeps_the_schema(
    server: AntennaServer, tmp_path: Path
) -> None:
    number = server.add_job(job(*traps(12)))
    done = subprocess.run(
        [str(AMI), "worker", "tune", "--job", str(number), "--tasks", "6", "--json"],
        env=environment(tmp_path, server),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    envelope = json.loads(done.stdout)
    jsonschema.validate(envelope, schema())
    assert envelope["data"]["sample"]["images"] == 6
    assert envelope["data"]["sample"]["pixels"] == 176 * 120
    state = server.state()
    assert (state.results, state.errors, state.waiting, state.reserved, state.lost) == (6, 0, 6, 0, 0)


@pytest.fixture
def ami(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """`ami worker tune …` in this process: exit code, standard output, standard error."""

    def run(server: AntennaServer | None, *words: str, **variables: object) -> tuple[int, str, str]:
        for name in [n for n in os.environ if n.startswith("AMI")]:
            monkeypatch.delenv(name)
        for name, value in environment(tmp_path, server, **variables).items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        result = CliRunner().invoke(app, ["worker", "tune", *words])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert "Traceback" not in result.output
        return result.exit_code, result.stdout, result.stderr

    return run


def test_it_writes_only_what_it_changes_and_says_so(
    server: AntennaServer, tmp_path: Path, ami: Callable[..., tuple[int, str, str]]
) -> None:
    server.add_job(job(*traps(8)))
    file = tmp_path / ".env"
    file.write_text(f"# mine\nAMI_MEMORY_BUDGET=0\n{BATCH}=24\n")
    file.chmod(0o640)
    code, out, err = ami(server, "--write", ".env")
    assert code == 0, err
    lines = file.read_text().splitlines()
    assert lines[0] == "# mine"
    assert "AMI_MEMORY_BUDGET=70%" in lines
    assert f"{BATCH}=24" in lines
    assert not any(line.startswith(PINNING) for line in lines)
    assert file.stat().st_mode & 0o777 == 0o640
    assert "AMI_MEMORY_BUDGET=70% (was 0, .env)" in out
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".ami")] == []


def test_without_a_task_it_says_so_and_writes_nothing(
    server: AntennaServer, tmp_path: Path, ami: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = ami(server, "--write", "new.env")
    assert (code, (tmp_path / "new.env").exists()) == (0, False)
    assert "no task to sample" in err
    assert "This machine" in out


def test_images_that_cannot_be_read_are_answered_and_no_sample(
    server: AntennaServer, ami: Callable[..., tuple[int, str, str]]
) -> None:
    server.add_job(job(*traps(3, broken="html")))
    code, _, err = ami(server)
    assert code == 0
    assert "none of 3 images could be loaded" in err
    assert (server.state().errors, server.state().reserved) == (3, 0)


def test_an_unknown_job_and_an_unknown_pipeline(
    server: AntennaServer, ami: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = ami(server, "--job", "4711")
    assert (code, "does not list job 4711" in err) == (0, True)
    code, _, err = ami(server, "--pipeline", "bees")
    assert (code, "--pipeline=bees (command line): must be one of moth_binary" in err) == (78, True)


def test_a_server_that_is_not_there_or_refuses(
    server: AntennaServer, ami: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = ami(None, AMI_ANTENNA_API_BASE_URL="http://127.0.0.1:1/api/v2")
    assert (code, "server unreachable" in err) == (69, True)
    code, _, err = ami(server, AMI_ANTENNA_API_AUTH_TOKEN="wrong")
    assert (code, "is the token in AMI_ANTENNA_API_AUTH_TOKEN right?" in err) == (77, True)


def test_a_file_that_cannot_be_written_is_a_bad_setting(
    server: AntennaServer, tmp_path: Path, ami: Callable[..., tuple[int, str, str]]
) -> None:
    server.add_job(job(*traps(2)))
    code, _, err = ami(server, "--write", "no/such/dir/.env", AMI_MEMORY_BUDGET=0)
    assert (code, "--write=no/such/dir/.env" in err) == (78, True)
    # Before any task is taken.
    assert server.state().reserved == server.state().answered == 0


def test_an_env_file_keeps_its_link_and_a_new_one_is_private(tmp_path: Path) -> None:
    real, link = tmp_path / "real.env", tmp_path / ".env"
    link.symlink_to(real)
    env_file.write(link, {"AMI_NUM_WORKERS": "2"})
    assert link.is_symlink()
    assert real.read_text() == "AMI_NUM_WORKERS=2\n"
    assert real.stat().st_mode & 0o777 == 0o600


def test_an_env_file_that_is_no_text_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UnicodeDecodeError):
        env_file.write(file, {"AMI_NUM_WORKERS": "2"})
    assert file.read_bytes() == b"\xff\xfe"
