"""The main job, end to end: a real worker on a real queue leaks, and is seen, judged, gated."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
import pytest
from jsonschema import Draft202012Validator

from amidiag.report.json_schema import schema

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
PERSISTENT = "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS"


def run(*words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([AMIDIAG, *words, "--json"], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    data = json.loads(done.stdout)
    Draft202012Validator(schema()).validate(data)
    assert data["exit_code"] == done.returncode
    return done.returncode, data


def by_resource(data: dict[str, Any], pid: int) -> dict[str, Any]:
    return {s["resource"]: s for s in data["series"] if s["pid"] == pid}


def test_quickstart_shows_the_leak_and_its_end(tmp_path) -> None:
    env = tmp_path / ".env"
    code, data = run("soak", "quickstart", "--write-env", str(env))
    assert code == 0
    leaking, mitigated = data["data"]["arms"]
    assert leaking["shown"] and mitigated["shown"]
    fd = by_resource(data, leaking["pid"])["fd"]
    assert fd["verdict"] == "leak"
    assert fd["driver"] == "loaders"
    assert fd["rate"]["per"] == "loaders"
    assert fd["rate"]["low"] <= 2.0 <= fd["rate"]["high"]
    assert fd["rate"]["value"] == pytest.approx(2.0, abs=0.02)
    assert fd["exhausts"]["limit"] == "nofile"
    assert fd["exhausts"]["in_seconds"] > 0
    assert by_resource(data, leaking["pid"])["fd.pipe.nobody"]["verdict"] == "leak"
    (finding,) = [f for f in data["findings"] if f["code"] == "FD101"]
    proven = {m["setting"]: m["proven"] for m in finding["mitigations"]}
    assert proven[PERSISTENT] is True
    assert proven["AMI_ANTENNA_API_DATALOADER_PIN_MEMORY"] is None
    assert mitigated["certificate"]["events_per_cycle_bound"] <= 0.02
    values = {s["resource"]: s["values"] for s in mitigated["series"]}["fd"]
    assert max(values) - min(values) <= 3
    for arm in data["data"]["arms"]:
        assert arm["answered"]["tasks"] > 0
        assert arm["answered"]["answered_once"] == arm["answered"]["tasks"]
        assert arm["worker_exit_status"] == 0
    assert "AUTH_TOKEN" not in json.dumps(data)
    assert env.read_text() == f"{PERSISTENT}=false\n"


def test_empty_polls_leak_with_zero_images(tmp_path) -> None:
    junit = tmp_path / "gate.xml"
    code, data = run("gate", "issue-145-empty-polls", "--junit", str(junit))
    assert code == 1
    (arm,) = data["data"]["arms"]
    assert arm["counters"]["images"] == 0
    assert arm["counters"]["jobs"] == 0
    assert arm["answered"]["tasks"] == 0
    fd = by_resource(data, arm["pid"])["fd"]
    assert (fd["verdict"], fd["driver"]) == ("leak", "loaders")
    assert fd["rate"]["low"] <= 2.0 <= fd["rate"]["high"]
    assert "Polling alone does not" in data["data"]["answers"]
    failed = {c["name"]: c for c in data["data"]["gate"] if c["outcome"] == "failed"}
    assert "fd" in failed
    assert "BaseProcess.start" in failed["fd"]["detail"]
    (finding,) = [f for f in data["findings"] if f["code"] == "FD101"]
    assert_from_the_loaders_processes(finding["call_sites"], fd)
    root = ElementTree.parse(junit).getroot()
    assert int(root.get("failures", "0")) == len(failed)


def assert_from_the_loaders_processes(sites: list[dict[str, Any]], fd: dict[str, Any]) -> None:
    """Made by multiprocessing's process start, called from DataLoader's iterator, called from the worker's loader."""
    most = sites[0]
    # All that grew in the cycles that were judged, and little else.
    assert most["count"] >= 0.95 * 2 * fd["cycles"]
    assert sum(s["count"] for s in sites) - most["count"] < 8
    wanted = ("worker/ingest/loader.py", "_MultiProcessingDataLoaderIter.__init__", "BaseProcess.start")
    places = [next(i for i, frame in enumerate(most["stack"]) if part in frame) for part in wanted]
    assert places == sorted(places)


@pytest.mark.parametrize("command", ["soak", "gate"])
def test_polling_only_is_clean(command) -> None:
    code, data = run(command, "polling-only")
    assert code == 0, data["series"]
    assert data["findings"] == []
    (arm,) = data["data"]["arms"]
    assert arm["counters"]["loaders"] == 0
    assert arm["counters"]["polls"] > 600
    assert arm["certificate"]["events_per_cycle_bound"] <= 0.01


def test_images_of_a_short_mixed_run_are_answered_once_and_found() -> None:
    code, data = run("soak", "mixed-images", "--cycles", "1", "--seed", "31")
    (arm,) = data["data"]["arms"]
    answered = arm["answered"]
    assert code == 0, data["findings"]
    assert answered["tasks"] == 100
    assert answered["answered_once"] == 100
    assert answered["lost"] == 0
    assert answered["broken"] > 0
    assert answered["broken_answered_as_result"] == 0
    assert answered["errors"] == answered["broken"]
    assert answered["intact_answered_as_error"] == 0
    assert answered["quality"]["planted"] > 100


@pytest.mark.parametrize("command", ["soak", "gate"])
def test_an_undecided_run_says_so(command) -> None:
    code, data = run(command, "polling-only", "--cycles", "10")
    assert code == 4
    (fd,) = [s for s in data["series"] if s["resource"] == "fd"]
    assert fd["verdict"] == "undecided"
    assert fd["samples_needed"] > 0
    if command == "gate":
        assert {c["outcome"] for c in data["data"]["gate"] if c["name"] == "fd"} == {"undecided"}
        assert run(command, "polling-only", "--cycles", "10", "--undecided", "pass")[0] == 0


def _begin(tmp_path: Path, recipe: str = "polling-only") -> subprocess.Popen[str]:
    """A soak that has polled at least once."""
    soak = subprocess.Popen(
        [AMIDIAG, "soak", recipe, "--cycles", "100000", "--keep", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert soak.stderr is not None
    for line in soak.stderr:
        if "cycles" in line:
            return soak
    raise AssertionError("the soak ended before its first cycle")


def _gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=30)
    return not alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_told_soak_ends_everything_that_was_started(tmp_path, number) -> None:
    soak = _begin(tmp_path)
    started = psutil.Process(soak.pid).children(recursive=True)
    assert len(started) >= 2
    soak.send_signal(number)
    _, errors = soak.communicate(timeout=60)
    assert soak.returncode == 130
    assert errors.splitlines()[-1] == "amidiag: interrupted; what was started has been ended"
    assert _gone(started)


def test_a_killed_soak_leaves_nothing_behind(tmp_path) -> None:
    """With loader processes, which do not notice the end of a parent that died before they were ready."""
    soak = _begin(tmp_path, "issue-145-empty-polls")
    time.sleep(0.5)
    marker = str(tmp_path)
    soak.kill()
    soak.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while (left := _working_in(marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def _working_in(directory: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(directory) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue  # ended meanwhile, or a kernel thread
    return found


def test_a_worker_that_ends_by_itself_is_said_with_its_last_words(tmp_path) -> None:
    program = tmp_path / "worker"
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    program.chmod(0o755)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'[recipe]\nname = "mine"\ntitle = "t"\n[worker]\ncommand = ["{program}"]\n[load]\ncycles = 3\n'
    )
    done = subprocess.run([AMIDIAG, "soak", str(recipe)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == (
        "amidiag: the worker of arm 'worker' ended by itself with exit status 3; "
        "the last that it said: 'no such model' (--keep DIR keeps its log)"
    )
    recipe.write_text(recipe.read_text().replace(str(program), "no-such-worker"))
    done = subprocess.run([AMIDIAG, "soak", str(recipe)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "cannot start no-such-worker: no such program" in done.stderr


def test_the_callers_own_settings_do_not_reach_the_worker(tmp_path) -> None:
    environment = {**os.environ, "AMI_NUM_WORKERS": "3", "AMI_ANTENNA_API_BATCH_SIZE": "77"}
    (tmp_path / ".env").write_text("AMI_CLASSIFICATION_THRESHOLD=0.123\n")
    done = subprocess.run(
        [AMIDIAG, "soak", "polling-only", "--cycles", "2", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    settings = json.loads(done.stdout)["data"]["arms"][0]["settings"]
    assert settings["AMI_NUM_WORKERS"] == 1
    assert settings["AMI_ANTENNA_API_BATCH_SIZE"] == 4
    assert settings["AMI_CLASSIFICATION_THRESHOLD"] == 0.6


def test_rate_sees_the_leak_of_a_running_worker(tmp_path) -> None:
    """The worker by itself, nothing held: `rate` reads its polls from the status page."""
    from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig
    from amidiag.soak.program import Program
    from amidiag.soak.recipe_file import load

    arm = load("issue-145-empty-polls").arms[0]
    with AntennaServer(ServerConfig(token="t")) as server:
        server.add_job(JobSpec(pipeline="moth_binary", list_always=True))
        settings = {
            **arm.settings,
            "AMI_ANTENNA_API_BASE_URL": server.base_url,
            "AMI_ANTENNA_API_AUTH_TOKEN": "t",
            "AMI_DIAG_TRACE": "1",
        }
        with Program(("ami", "worker", "run"), settings, arm.faults, tmp_path) as program:
            deadline = time.monotonic() + 60
            while server.state([]).polls < 12:
                assert time.monotonic() < deadline, program.last_words()
                time.sleep(0.2)
            code, data = run("rate", str(program.pid), "--for", "30s")
    assert code == 1
    (fd,) = [s for s in data["series"] if s["resource"] == "fd"]
    assert fd["verdict"] == "leak"
    assert data["data"]["polls"] > 24
    # What the leaked FDs belong to takes memory too: after some time that is found as well.
    codes = [f["code"] for f in data["findings"]]
    assert codes in (["FD101"], ["FD101", "MEM100"]), data["findings"]
    finding = data["findings"][0]
    # The worker had switched its tracer on by its own setting.
    assert "BaseProcess.start" in " ".join(finding["call_sites"][0]["stack"])
    assert data["processes"][0]["role"] == "worker"


STRANGER = """#!{python}
import os, sys, urllib.request
keep = []
base, token = os.environ["AMI_ANTENNA_API_BASE_URL"], os.environ["AMI_ANTENNA_API_AUTH_TOKEN"]
while True:
    request = urllib.request.Request(base + "/jobs", headers={{"Authorization": "Token " + token}})
    urllib.request.urlopen(request).read()
    keep.append(os.pipe())
"""


def test_any_program_that_polls_can_be_soaked(tmp_path) -> None:
    """A worker that is not ours, without a status page: polls are counted by the server."""
    program = tmp_path / "stranger.py"
    program.write_text(STRANGER.format(python=sys.executable))
    program.chmod(0o755)
    recipe = tmp_path / "stranger.toml"
    recipe.write_text(
        '[recipe]\nname = "stranger"\ntitle = "leak [/x] seen"\n[load]\ncycles = 300\n'
        f'[worker]\ncommand = ["{program}"]\n'
    )
    code, data = run("soak", str(recipe), "--keep", str(tmp_path / "kept"))
    assert code == 1
    (arm,) = data["data"]["arms"]
    fd = by_resource(data, arm["pid"])["fd"]
    assert (fd["verdict"], fd["driver"], fd["driver_tied"]) == ("leak", "polls", [])
    assert fd["rate"]["value"] == pytest.approx(2.0)
    (finding,) = data["findings"]
    assert finding["code"] == "FD100"
    assert finding["call_sites"][0]["stack"][-1].endswith("stranger.py:8 <module>")
    assert any("no status page" in note for note in data["notes"])
    assert (tmp_path / "kept" / "arm-1" / "worker.log").exists()
