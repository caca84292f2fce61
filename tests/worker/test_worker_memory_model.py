"""The memory model: its arithmetic, and that the loader in fact uses what it says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from worker.guard.memory_model import HELPERS, LOADER_BASE, MIB, PARENT_BASE, Case, fixed_bytes, predict
from worker.settings import read

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TWELVE = Case(pixels=4096 * 3072, file_bytes=4 * MIB, batch=8, prefetch=4, loaders=1)


def test_issue_138() -> None:
    """12 megapixels, batch 8, prefetch 4, one loader: a quarter of the 5760 MiB that float32 took (FACTS 7)."""
    assert predict(TWELVE).dev_shm == 1440 * MIB
    assert predict(replace(TWELVE, value_bytes=4)).dev_shm == 5760 * MIB
    assert predict(TWELVE).total <= 4388 * MIB


def test_the_parts_make_the_total() -> None:
    found = predict(replace(TWELVE, loaders=2, cache_bytes=64 * MIB))
    assert found.dev_shm == 9 * 288 * MIB
    assert found.parent == PARENT_BASE
    # The cache is larger than 8 files of 4 MiB, which it holds too; they take their room once more as they come.
    assert found.loaders == 2 * (LOADER_BASE + 64 * MIB + 32 * MIB)
    assert found.helpers == HELPERS["forkserver"]
    assert found.total == found.dev_shm + found.parent + found.loaders + found.helpers


def test_files_count_twice_where_the_cache_is_smaller() -> None:
    assert predict(TWELVE).loaders == LOADER_BASE + 2 * 32 * MIB


def test_what_the_tuner_allows_bounds_the_batches() -> None:
    held = predict(replace(TWELVE, prefetch=16, depth=2, batch_bytes=150 * MIB))
    # 4 whole images of 36 MiB, in 2 batches with the loader and the one that is worked on.
    assert held.dev_shm == 3 * 4 * 36 * MIB


def test_one_image_is_loaded_whatever_its_size() -> None:
    assert predict(replace(TWELVE, batch_bytes=1)).dev_shm == 5 * 36 * MIB


def test_without_loader_processes_there_is_one_batch_in_the_worker() -> None:
    found = predict(replace(TWELVE, loaders=0))
    assert (found.dev_shm, found.loaders, found.helpers) == (0, 0, 0)
    assert found.parent == PARENT_BASE + 288 * MIB + 2 * 32 * MIB


def test_pinned_copies_are_rounded_up_to_a_power_of_two() -> None:
    found = predict(replace(TWELVE, pinned=True))
    assert found.pinned == 5 * 512 * MIB
    assert found.dev_shm == 4 * 288 * MIB


@pytest.mark.parametrize(("method", "helpers"), [("fork", 0), ("spawn", HELPERS["spawn"])])
def test_helpers_follow_the_start_method(method: str, helpers: int) -> None:
    assert predict(replace(TWELVE, start_method=method)).helpers == helpers


def test_a_measured_pipeline_replaces_the_built_in_one() -> None:
    found = predict(replace(TWELVE, at_once=4, work_bytes=10 * MIB, parent_bytes=500 * MIB))
    assert found.parent == 540 * MIB


def test_a_pipeline_works_on_reduced_images_so_many_at_a_time() -> None:
    small, large = (predict(replace(TWELVE, at_once=n)).parent - PARENT_BASE for n in (1, 8))
    assert large > 5 * small
    assert predict(replace(TWELVE, at_once=8, pixels=100 * 10**6)).parent == PARENT_BASE + large


def test_what_is_fixed_grows_with_loader_processes_and_with_what_the_worker_has_already() -> None:
    def fixed(own: int = 0, **changes: str) -> int:
        return fixed_bytes(read(Path("/dev/null"), changes).settings, own)

    assert fixed(AMI_NUM_WORKERS="2") - fixed() == LOADER_BASE + 64 * MIB
    assert fixed(own=PARENT_BASE + 7) - fixed() == 7


def test_the_math_says_every_part() -> None:
    text = "\n".join(predict(replace(TWELVE, pinned=True, at_once=8)).math)
    for said in (
        "12,582,912 pixels",
        "36 MiB",
        "288 MiB",
        "loader processes: 1",
        "page-locked: 5",
        "pipeline",
    ):
        assert said in text


def test_a_real_loader_uses_what_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's own cell, small: a process with the worker's loader, looked at from outside."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ingest_memory
    from image_server import jpeg, serving

    size = (1024, 768)
    with serving([size]) as origin:
        setup = ingest_memory.Setup(size, 8, 2, start_method="fork")
        result = ingest_memory.measure(setup, origin, len(jpeg(size, 0)))
    for name in ("ingest_memory", "image_server", "memory_watch"):
        sys.modules.pop(name)
    assert result.settled
    assert result.peak.dev_shm == pytest.approx(result.predicted.dev_shm, rel=0.01)
    assert abs(result.error) <= 0.15
