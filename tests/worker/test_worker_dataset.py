"""What a loader process makes of a request: real loader processes, images from a server on the loopback."""

from __future__ import annotations

import http.server
import io
import os
import pickle
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from worker import caches
from worker.antenna.schemas import Task
from worker.exhaustion import ExhaustedError, exhausted
from worker.ingest import packing
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.dataset import ImageDataset, collate
from worker.ingest.limits import ImageLimits
from worker.ingest.staging import staged_path

JOB = 7
Load = Callable[..., list[Batch]]


def image(value: int, width: int = 40, height: int = 30, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (value, value, value)).save(stream, kind)
    return stream.getvalue()


def bomb() -> bytes:
    """A small file of far more pixels than the limit."""
    stream = io.BytesIO()
    Image.new("1", (5000, 5000)).save(stream, "PNG")
    return stream.getvalue()


class Site:
    """A server of files; it counts how often each was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                body = site.files.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *args: Any) -> None:
                """Nothing: pytest shows what matters."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def task(self, name: str, body: bytes | None = None) -> Task:
        if body is not None:
            self.files[f"/{name}"] = body
        return Task(name, name, f"http://127.0.0.1:{self.server.server_port}/{name}", None)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


def dataset(cache_bytes: int = 1 << 20, staging_dir: str = "", **limits: float) -> ImageDataset:
    usual = {"max_bytes": 1 << 20, "max_pixels": 1_000_000, "timeout_s": 10.0}
    return ImageDataset(ImageLimits(**(usual | limits)), 4, cache_bytes, staging_dir)  # type: ignore[arg-type]


def load(data: ImageDataset, *requests: BatchRequest, context: str = "fork", **loader: Any) -> list[Batch]:
    """The batches of one loader process."""
    return list(
        DataLoader(
            data,
            batch_sampler=list(requests),  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=1,
            timeout=30,
            multiprocessing_context=context,
            **loader,
        )
    )


def values(batch: Batch) -> list[int]:
    """The one value of each picture; it must be all over it."""
    found = []
    for picture in batch.images(torch.device("cpu")):
        assert picture.min() == picture.max()
        found.append(int(picture.max()))
    return found


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_images_of_all_sizes_come_in_one_shared_tensor(site: Site, context: str) -> None:
    tasks = tuple(site.task(f"{i}", image(i * 20, 40 + i, 30 + 2 * i)) for i in range(5))
    (batch,) = load(dataset(), BatchRequest(tasks, JOB), context=context)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.is_shared()
    assert batch.bytes == sum((40 + i) * (30 + 2 * i) * 3 for i in range(5))
    assert batch.shapes == tuple((30 + 2 * i, 40 + i) for i in range(5))
    assert (batch.tasks, values(batch)) == (tasks, [0, 20, 40, 60, 80])
    assert batch.report.pid != os.getpid()
    assert batch.report.file_bytes == sum(len(body) for body in site.files.values())
    assert batch.report.decode_s > 0


def no_more_descriptors(number: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))


def test_what_the_process_has_run_out_of_is_no_answer_for_an_image(site: Site) -> None:
    tasks = (site.task("good", image(1)),)
    with pytest.raises(ExhaustedError) as raised:
        load(dataset(), BatchRequest(tasks, JOB), worker_init_fn=no_more_descriptors)
    assert exhausted(raised.value) == "EMFILE: Too many open files"


def test_whatever_comes_is_a_result_or_a_failure_of_its_task(site: Site) -> None:
    jpeg = image(90, 64, 64, "JPEG")
    bad = {
        "empty": b"",
        "html": b"<html>please log in</html>",
        "cut": jpeg[: len(jpeg) * 9 // 10] + b"\xff\xd9",
        "large": bytes(2 << 20),
        "bomb": bomb(),
        "nonsense": b"\xff\xd8\xff" + os.urandom(500),
    }
    tasks = [site.task("first", image(10)), *(site.task(name, body) for name, body in bad.items())]
    tasks += [site.task("missing"), Task("x", "x", "http://[", None), site.task("last", jpeg)]
    (batch,) = load(dataset(), BatchRequest(tuple(tasks), JOB))
    assert [task.id for task in batch.tasks] == ["first", "last"]
    assert values(batch) == [10, 90]
    errors = {failure.task.id: failure.error for failure in batch.failures}
    assert errors.keys() == bad.keys() | {"missing", "x"}
    assert all(error.startswith("failed to load image: ") for error in errors.values())
    assert "404" in errors["missing"]
    assert "more than the limit of 1000000" in errors["bomb"]
    assert "truncated" in errors["cut"]


def test_what_does_not_fit_is_deferred_in_order_and_not_downloaded_again(site: Site) -> None:
    one = 40 * 30 * 3
    tasks = tuple(site.task(f"{i}", image(i)) for i in range(5))
    first = BatchRequest(tasks, JOB, max_bytes=one * 2 + 1)
    batch, rest = load(dataset(), first, BatchRequest(tasks[2:], JOB))
    assert (values(batch), batch.deferred, batch.bytes) == ([0, 1], tasks[2:], 2 * one)
    assert values(rest) == [2, 3, 4]
    assert sorted(site.asked) == [f"/{i}" for i in range(5)]


def test_one_image_is_loaded_however_large_it_is(site: Site) -> None:
    tasks = (site.task("missing"), site.task("a", image(1)), site.task("b", image(2)))
    (batch,) = load(dataset(), BatchRequest(tasks, JOB, max_bytes=1))
    assert (values(batch), batch.deferred) == ([1], tasks[2:])
    assert [failure.task for failure in batch.failures] == [tasks[0]]


def test_a_request_without_tasks_drains_and_answers(site: Site) -> None:
    (batch,) = load(dataset(), BatchRequest((), JOB, drain=True))
    assert (batch.tasks, batch.failures, batch.deferred, batch.bytes) == ((), (), (), 0)


def fill_a_cache(worker_id: int) -> None:
    """Runs first in the loader process: it has a cache that can be drained, and one that leaks."""
    held, stuck = [b"x" * 10], [b"y" * 20]
    caches.register("held", size=lambda: caches.CacheSize(len(held), 10 * len(held)), drain=held.clear)
    caches.register("stuck", size=lambda: caches.CacheSize(len(stuck), 20), drain=lambda: None)


def test_a_drain_empties_the_caches_of_the_process_and_names_what_is_left(site: Site) -> None:
    task = (site.task("a", image(1)),)
    before, drained = load(
        dataset(), BatchRequest(task, JOB), BatchRequest(task, JOB, drain=True), worker_init_fn=fill_a_cache
    )
    assert before.report.caches["held"] == (1, 10)
    assert before.report.to_drain
    assert before.report.leftovers == {}
    assert drained.report.caches["held"] == (0, 0)
    assert drained.report.leftovers == {"stuck": (1, 20)}
    assert values(drained) == [1]


@pytest.mark.parametrize(("cache_bytes", "downloads"), [(1 << 20, 1), (0, 3)])
def test_a_task_that_comes_again_is_taken_from_the_cache(
    site: Site, cache_bytes: int, downloads: int
) -> None:
    request = BatchRequest((site.task("a", image(5)),), JOB)
    batches = load(dataset(cache_bytes), request, request, request)
    assert [values(batch) for batch in batches] == [[5]] * 3
    assert len(site.asked) == downloads
    assert ("images" in batches[-1].report.caches) == (cache_bytes > 0)


@pytest.mark.parametrize("body", [b"<html>", image(3, kind="JPEG")[:-30]], ids=["no image", "damaged"])
def test_what_is_no_good_image_is_not_kept(site: Site, body: bytes) -> None:
    request = BatchRequest((site.task("a", body),), JOB)
    (batch, _) = load(dataset(), request, request)
    assert (len(batch.failures), len(site.asked)) == (1, 2)
    assert batch.report.caches["images"].entries == 0


def test_a_staged_file_is_not_downloaded(site: Site, tmp_path: Path) -> None:
    staged, other = site.task("a"), site.task("b", image(8))
    path = staged_path(tmp_path, JOB, staged)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image(7))
    (batch,) = load(dataset(staging_dir=str(tmp_path)), BatchRequest((staged, other), JOB))
    assert (values(batch), site.asked) == ([7, 8], ["/b"])


def allow_one_mebibyte(worker_id: int) -> None:
    """Runs first in the loader process: it can make no larger file, so no larger segment either."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))


def test_where_shared_memory_is_short_fewer_images_come_and_one_that_is_too_large_fails(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WAIT_S", 0.0)
    tasks = tuple(site.task(f"{i}", image(i, 400, 300)) for i in range(8))
    large = site.task("large", image(9, 1000, 1000))
    some, too_large = load(
        dataset(),
        BatchRequest(tasks, JOB),
        BatchRequest((large, *tasks), JOB),
        worker_init_fn=allow_one_mebibyte,
    )
    assert (values(some), some.deferred, some.failures) == ([0, 1], tasks[2:], ())
    assert (too_large.tasks, too_large.deferred) == ((), tasks)
    (failure,) = too_large.failures
    assert (failure.task, "no shared memory for 3000000 bytes" in failure.error) == (large, True)


def test_without_loader_processes_it_works_here_and_leaves_nothing_behind(site: Site) -> None:
    data, threads = dataset(), threading.active_count()
    request = BatchRequest((site.task("a", image(4)),), JOB)
    (batch,) = DataLoader(data, batch_sampler=[request], collate_fn=collate)  # type: ignore[arg-type]
    assert (values(batch), batch.pixels.is_shared()) == ([4], False)
    assert batch.report.pid == os.getpid()
    data.close()
    assert "images" not in caches.sizes()
    assert sum(t.name.startswith("ami-image") for t in threading.enumerate()) == 0
    assert threading.active_count() <= threads + 1


def test_a_dataset_that_was_not_used_has_nothing_that_cannot_travel() -> None:
    before = threading.active_count()
    pickle.loads(pickle.dumps(dataset()))
    assert (threading.active_count(), "images" in caches.sizes()) == (before, False)


@pytest.mark.parametrize(
    ("sizes", "max_bytes", "count"),
    [
        ([], 10, 0),
        ([], None, 0),
        ([5, 5, 5], None, 3),
        ([5, 5, 5], 10, 2),
        ([5, 6, 1], 10, 1),
        ([50, 1], 10, 1),
    ],
)
def test_images_fit_in_order_and_one_always_does(sizes: list[int], max_bytes: int | None, count: int) -> None:
    pixels, offsets = packing.allot(sizes, max_bytes)
    assert (len(offsets), pixels.numel()) == (count, sum(sizes[:count]))
    assert list(offsets) == list(np.cumsum([0, *sizes])[:count])


def test_where_no_segment_can_be_made_each_try_leaves_nothing_behind_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """torch forgets the file and the FD of a segment that it could not make as long as it should be."""
    monkeypatch.setattr(packing, "WAIT_S", 0.5)
    monkeypatch.setattr(packing, "get_worker_info", lambda: True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = segments_of_this_process()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for _ in range(2):
            with pytest.raises(packing.NoRoomError):
                packing.allot([1 << 20, 1 << 20], None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert segments_of_this_process() == before
    assert len(caplog.records) == 1
    with caplog.at_level("INFO"):
        packing.allot([1 << 10], None)
        packing.allot([1 << 10], None)
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"]


def segments_of_this_process() -> list[str]:
    """The shared memory that it has by name or by FD."""
    held = [os.readlink(fd) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()]
    named = [str(path) for path in Path("/dev/shm").glob(f"torch_{os.getpid()}_*")]
    return sorted(named + [path for path in held if path.startswith("/dev/shm/torch_")])
