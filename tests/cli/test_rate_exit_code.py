"""What `amidiag rate` tells a script: flat is only what was certified, and nothing may be rising beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

AMIDIAG = str(Path(sys.executable).parent / "amidiag")

# A worker's status page, polls at a steady pace, and what a poll leaves behind.
WORKER = """
import itertools, os, sys, threading, time
from amidiag.target.status_page import StatusPage
page = StatusPage.create(settings={})
keep, what, pause = [], sys.argv[1], float(sys.argv[2])
print("ready", flush=True)
for turn in itertools.count():
    page.count("polls")
    if what == "fds": keep.append(os.dup(0))
    if what == "threads": threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    # Slow and fast by turns: at one pace polls and seconds are the same thing.
    time.sleep(pause * (1 + 4 * (turn // 10 % 2) * (what == "fds")))
"""


def rate(directory: Path, what: str, pause: float, *words: str) -> tuple[int, dict, str]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, what, str(pause)],
        stdout=subprocess.PIPE,
        env={"AMIDIAG_RUNTIME_DIR": str(directory), "PATH": "/usr/bin:/bin"},
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    try:
        done = subprocess.run(
            [AMIDIAG, "rate", str(worker.pid), *words, "--json"], capture_output=True, text=True, check=False
        )
    finally:
        worker.kill()
        worker.communicate()
    return done.returncode, json.loads(done.stdout), done.stderr


def series(data: dict) -> dict:
    return {entry["resource"]: entry for entry in data["series"]}


def test_a_flat_worker_is_clean_and_its_bound_is_per_poll(tmp_path) -> None:
    code, data, _ = rate(tmp_path, "nothing", 0.002, "--for", "6s", "--interval", "0.02")
    fd = series(data)["fd"]
    assert (code, fd["verdict"]) == (0, "stable")
    # Several polls fell between two looks; 100 looks alone could not certify this.
    assert data["data"]["polls"] > 3 * data["data"]["samples"]
    assert fd["upper_bound"] < 4.61 / data["data"]["samples"]


def test_a_leak_is_a_finding_at_its_true_rate_per_poll(tmp_path) -> None:
    code, data, _ = rate(tmp_path, "fds", 0.01, "--for", "5s", "--interval", "0.02")
    fd = series(data)["fd"]
    assert (code, fd["verdict"], fd["driver"]) == (1, "leak", "polls")
    assert fd["rate"]["value"] == pytest.approx(1, rel=0.05)


def test_flat_fds_beside_growing_threads_are_not_clean(tmp_path) -> None:
    code, data, _ = rate(tmp_path, "threads", 0.02, "--for", "2s", "--interval", "0.01")
    assert series(data)["threads"]["verdict"] in ("leak", "growing")
    assert code == (1 if series(data)["threads"]["verdict"] == "leak" else 4)


def test_few_looks_say_why_nothing_is_decided(tmp_path) -> None:
    code, data, _ = rate(tmp_path, "nothing", 0.005, "--for", "2s", "--interval", "0.2")
    assert code == 4
    (note,) = [note for note in data["notes"] if "polls" in note]
    assert "were faster than the looks and make only" in note
    assert series(data)["fd"]["samples_needed"] > 24


@pytest.mark.parametrize(
    ("verdicts", "found", "code"),
    [
        ({"fd": "stable"}, False, 0),
        ({"fd": "stable", "memory.rss": "undecided"}, False, 0),
        ({"fd": "stable", "memory.rss": "growing"}, False, 4),
        ({"fd": "stable", "threads": "growing"}, False, 4),
        ({"fd": "undecided"}, False, 4),
        ({"threads": "stable", "children": "stable"}, False, 4),
        ({}, False, 4),
        ({"fd": "growing", "threads": "leak"}, False, 1),
        ({"fd": "stable"}, True, 1),
    ],
)
def test_the_exit_code_of_every_combination(verdicts, found, code) -> None:
    from amidiag.cli.rate import exit_code

    assert exit_code(verdicts, found=found) == code
