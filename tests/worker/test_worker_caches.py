"""Registered caches: measured, drained in every process at the end of a job; what a drain leaves is a leak."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from worker_rig import job, traps

from amidiag.attach.status import read_page
from amidiag.soak.antenna import AntennaServer
from amidiag.target.status_page import StatusPage
from worker import caches
from worker.caches import CacheSize
from worker.loop import Worker

Make = Callable[..., Worker]
held: list[bytes] = []


@pytest.fixture
def hoard() -> Iterator[list[bytes]]:
    """A module-level cache, as a pipeline might have one."""
    held.clear()
    caches.register("hoard", size=lambda: CacheSize(len(held), sum(map(len, held))), drain=held.clear)
    yield held
    caches.forget("hoard")


def test_a_cache_says_what_it_holds_and_is_emptied(hoard: list[bytes]) -> None:
    hoard += [b"abc", b"de"]
    assert caches.sizes()["hoard"] == CacheSize(2, 5)
    assert caches.drain() == {}
    assert hoard == []


def test_a_drain_that_leaves_entries_is_logged_as_a_leak(caplog: pytest.LogCaptureFixture) -> None:
    caches.register("stuck", size=lambda: CacheSize(3, 30), drain=lambda: None)
    try:
        assert caches.drain()["stuck"] == CacheSize(3, 30)
    finally:
        caches.forget("stuck")
    assert "the cache stuck leaks: 3 entries, 30 bytes are left in it" in caplog.text


def test_a_cache_that_bounds_itself_is_kept_unless_memory_is_short() -> None:
    kept = {"a": b"1"}
    caches.register("kept", size=lambda: CacheSize(len(kept), 1), drain=kept.clear, bounded=True)
    try:
        assert caches.drain() == {}
        assert kept and "kept" not in caches.unbounded()
        caches.drain(bounded=True)
        assert not kept
    finally:
        caches.forget("kept")


def test_a_cache_that_fails_breaks_no_work(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> CacheSize:
        raise ValueError("no size today")

    caches.register("broken", size=broken, drain=lambda: None)
    try:
        assert "broken" not in caches.sizes()
        assert caches.drain() == {}
    finally:
        caches.forget("broken")
    assert "no size today" in caplog.text


@pytest.mark.parametrize(("drains", "left"), [("true", 0), ("false", 1)])
def test_the_end_of_a_job_drains_this_process_and_publishes_the_sizes(
    server: AntennaServer, worker: Make, page: StatusPage, hoard: list[bytes], drains: str, left: int
) -> None:
    server.add_job(job(*traps(2)))
    hoard.append(b"kept by a pipeline")
    worker(server, AMI_CACHE_DRAIN=drains).run(max_polls=1)
    assert len(hoard) == left
    assert page.path is not None
    published = read_page(page.path).caches
    assert published["hoard"]["entries"] == left
    assert published["images (loaders)"]["entries"] == 2


@pytest.mark.parametrize("loaders", [1, 2])
def test_the_end_of_a_job_drains_every_loader_process_that_holds_something(
    server: AntennaServer,
    worker: Make,
    page: StatusPage,
    monkeypatch: pytest.MonkeyPatch,
    loaders: int,
) -> None:
    from worker.ingest.dataset import ImageDataset

    held: list[bytes] = []
    original = ImageDataset.__getitems__

    def hoarding(self: ImageDataset, request: object) -> object:
        # In the loader process, which was forked with this function in place: a fetch buffer of its own.
        if getattr(request, "tasks", ()):
            held.append(b"fetched")
        caches.register("fetch buffer", size=lambda: CacheSize(len(held), 7), drain=held.clear)
        return original(self, request)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageDataset, "__getitems__", hoarding)
    sizes: list[object] = []
    original_caches = page.caches
    monkeypatch.setattr(page, "caches", lambda found: (sizes.append(found), original_caches(found)))
    server.add_job(job(*traps(4)))
    worker(server, AMI_NUM_WORKERS=loaders, AMI_ANTENNA_API_BATCH_SIZE=1).run(max_polls=1)
    (published,) = sizes
    assert published["fetch buffer (loaders)"] == {"entries": 0, "bytes": 7 * loaders}  # type: ignore[index]
