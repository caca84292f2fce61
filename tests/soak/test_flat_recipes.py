"""The recipes that show how flat the worker is, and what decides whether it was flat enough."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amidiag.series.recording import Recording
from amidiag.soak.flat import flat_checks, floor_rate, not_flat
from amidiag.soak.plan import plan
from amidiag.soak.recipe import Arm, RecipeError
from amidiag.soak.recipe_file import load

AMIDIAG = str(Path(sys.executable).parent / "amidiag")
METHODS = ("fork", "forkserver", "spawn")
COUNTS = ("fd", "threads", "children", "shm.held", "tree.fd", "tree.threads")
MIB = 1 << 20


def recording(cycles: int, **series: Any) -> Recording:
    """A run in which nothing moves but the series given as functions of the cycle."""
    made = Recording(timed=False)
    for cycle in range(cycles):
        row = dict.fromkeys(COUNTS, 8.0) | {"memory.rss": 300.0 * MIB, "tree.memory": 400.0 * MIB}
        row |= {name.replace("__", "."): float(value(cycle)) for name, value in series.items()}
        made.add_row(row, {"polls": float(cycle)}, float(cycle))
    return made


@pytest.fixture
def arm() -> Arm:
    return load("flat-worker-fork").arms[0]


def outcomes(arm: Arm, run: Recording) -> dict[str, str]:
    return {check.resource: check.outcome for check in flat_checks(arm, run)}


@pytest.mark.parametrize("lifetime", ["worker", "job"])
@pytest.mark.parametrize("method", METHODS)
def test_each_recipe_fixes_lifetime_and_start_method_and_demands_all(lifetime, method) -> None:
    recipe = load(f"flat-{lifetime}-{method}")
    (arm,) = recipe.arms
    assert arm.settings["AMI_ANTENNA_API_DATALOADER_LIFETIME"] == lifetime
    assert arm.settings["AMI_ANTENNA_API_DATALOADER_MP_CONTEXT"] == method
    assert arm.demands_flat == COUNTS
    assert arm.certificate_events_per_cycle <= 0.01
    cycles = list(plan(recipe.load, recipe.load.seed))[recipe.load.warm_up :]
    listed = [jobs for jobs in cycles if jobs]
    empty = sum(not any(job.images for job in jobs) for jobs in listed)
    assert 0.4 < empty / len(listed) < 0.6
    # A thousand bytes per job, whatever share of the cycles has one.
    assert arm.memory_bytes_per_cycle is not None
    assert arm.memory_bytes_per_cycle * len(cycles) / len(listed) <= 1024
    assert len(listed) >= (2000 if lifetime == "worker" else 300)


def test_what_keeps_its_level_passes(arm) -> None:
    # Bursts and a sawtooth of garbage are no growth.
    noise = random.Random(1)
    run = recording(
        2000,
        fd=lambda n: 8 + noise.choice((0, 0, 0, 5)),
        memory__rss=lambda n: 300 * MIB + (n % 300) * 20_000,
    )
    assert set(outcomes(arm, run).values()) == {"passed"}
    assert not_flat(flat_checks(arm, run), ()) == ()


def test_a_leak_of_one_in_a_hundred_cycles_is_not_certified(arm) -> None:
    found = outcomes(arm, recording(2000, tree__fd=lambda n: 20 + n // 100))
    assert found.pop("tree.fd") == "failed"
    assert set(found.values()) == {"passed"}


def test_a_single_late_step_is_no_certificate_and_no_leak(arm) -> None:
    assert outcomes(arm, recording(2000, threads=lambda n: 3 + (n > 1900)))["threads"] == "undecided"


@pytest.mark.parametrize(("per_cycle", "outcome"), [(512, "passed"), (2048, "failed")])
def test_memory_is_held_to_its_bound(arm, per_cycle, outcome) -> None:
    noise = random.Random(2)
    run = recording(
        2000, tree__memory=lambda n: 400 * MIB + n * per_cycle + noise.randrange(0, 2 * MIB, 4096)
    )
    assert outcomes(arm, run)["tree.memory"] == outcome
    codes = [finding.code for finding in not_flat(flat_checks(arm, run), ())]
    assert codes == (["MEM101"] if outcome == "failed" else [])


def test_a_dip_at_the_end_does_not_hide_growth(arm) -> None:
    run = recording(2000, memory__rss=lambda n: (300 if n == 1990 else 310) * MIB + n * 2048)
    assert outcomes(arm, run)["memory.rss"] == "failed"


def test_a_finding_is_told_once(arm) -> None:
    checks = flat_checks(arm, recording(2000, fd=lambda n: 8 + n))
    assert [finding.code for finding in not_flat(checks, ())] == ["FD102"]
    assert not_flat(checks, {"fd"}) == ()


def test_too_few_cycles_decide_nothing(arm) -> None:
    assert set(outcomes(arm, recording(60)).values()) == {"undecided"}
    assert floor_rate([1.0] * 95) is None
    assert floor_rate([1.0] * 96) == 0.0


def test_an_arm_that_demands_nothing_is_not_checked() -> None:
    arm = load("polling-only").arms[0]
    assert flat_checks(arm, recording(100)) == ()
    assert flat_checks(replace(arm, stop="end"), recording(700))[0].resource == "fd"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('stop = "end"\nalso_flat = ["tree.fds"]', "also_flat: must be one of fd, fd.TYPE"),
        ('also_flat = ["threads"]', 'also_flat: has a meaning only with stop = "end"'),
        ("memory_bytes_per_cycle = 1", "memory_bytes_per_cycle: has a meaning only"),
    ],
)
def test_a_demand_that_cannot_be_checked_is_refused(tmp_path, line, words) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'[recipe]\nname = "m"\ntitle = "t"\n[load]\ncycles = 9\n[[arm]]\nname = "a"\n{line}\n')
    with pytest.raises(RecipeError) as caught:
        load(str(path))
    assert words in str(caught.value)


def test_a_short_run_of_one_loader_for_many_jobs(tmp_path) -> None:
    recipe = tmp_path / "short.toml"
    text = Path(load("flat-worker-fork").path).read_text()
    recipe.write_text(text.replace("warm_up = 500", "warm_up = 30"))
    done = subprocess.run(
        [AMIDIAG, "soak", str(recipe), "--cycles", "60", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    data = json.loads(done.stdout)
    (arm,) = data["data"]["arms"]
    assert done.returncode == 4, data["findings"]
    assert arm["counters"]["loaders"] == 1
    assert arm["counters"]["jobs"] > 30
    assert arm["answered"]["answered_once"] == arm["answered"]["tasks"] > 60
    assert {check["resource"] for check in arm["flat"]} == {*COUNTS, "memory.rss", "tree.memory"}
    values = {s["resource"]: s["values"] for s in arm["series"]}
    # The loader process is part of the tree, and stays.
    assert set(values["children"]) == {1}
    for name in COUNTS:
        assert min(values[name][30:]) <= min(values[name][:30]), name


def test_how_many_cycles_are_missing_is_enough(arm) -> None:
    (text,) = [c.text for c in flat_checks(arm, recording(473)) if c.resource == "fd"]
    more = int(text.rpartition("needs about ")[2].removesuffix(" more"))
    assert more > 0
    assert outcomes(arm, recording(473 + more))["fd"] == "passed"
