"""The loader: each setting reaches DataLoader, each start method works, and it ends without a trace."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import active_children
from typing import Any

import numpy as np
import pytest
import torch
from worker_rig import job, settings_for, traps

from amidiag.soak.antenna import AntennaServer, ImageSpec
from amidiag.soak.traps import TrapSpec, render
from worker.antenna.client import AntennaClient
from worker.antenna.schemas import Task
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.beat import LOADING, Beats
from worker.ingest.decode import decode
from worker.ingest.loader import Loader, LoaderError, build, dataset_for
from worker.ingest.source import Feed
from worker.settings import WorkerSettings, read

DATALOADER = "AMI_ANTENNA_API_DATALOADER_"


def configured(**changes: str) -> WorkerSettings:
    return read(environ=changes).settings


def loader_for(**changes: str) -> Any:
    settings = configured(**changes)
    return build(settings, dataset_for(settings), Feed(), Beats(settings.num_workers))


class Lists:
    """A source of lists of tasks; `held_back` of them are not given before a batch has come."""

    def __init__(self, *lists: list[Task], at_once: int = 99) -> None:
        self._left = list(lists)
        self._at_once = at_once
        self.in_flight = 0
        self.most_in_flight = 0

    def next_request(self) -> BatchRequest | None:
        if not self._left or self.in_flight >= self._at_once:
            return None
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return BatchRequest(tuple(self._left.pop(0)), 1)

    def arrived(self, batch: Batch) -> None:
        self.in_flight -= 1


def tasks_of(server: AntennaServer, *images: TrapSpec | ImageSpec) -> list[Task]:
    client = AntennaClient(server.base_url, server.config.token)
    tasks = client.reserve(server.add_job(job(*images)), 1000)
    client.close()
    return tasks


def batches(settings: WorkerSettings, *lists: list[Task]) -> Iterator[Batch]:
    with Loader(settings) as loader:
        loader.begin(Lists(*lists))
        while (batch := loader.next()) is not None:
            yield batch


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_the_start_method_reaches_the_dataloader(method: str) -> None:
    loader = loader_for(**{DATALOADER + "MP_CONTEXT": method})
    assert loader.multiprocessing_context.get_start_method() == method


@pytest.mark.parametrize(
    ("setting", "value", "attribute", "expected"),
    [
        (DATALOADER + "MP_CONTEXT", "", "multiprocessing_context", None),
        (DATALOADER + "TIMEOUT_S", "17", "timeout", 17),
        (DATALOADER + "TIMEOUT_S", "0", "timeout", 0),
        (DATALOADER + "PREFETCH_FACTOR", "7", "prefetch_factor", 7),
        (DATALOADER + "PERSISTENT_WORKERS", "true", "persistent_workers", True),
        (DATALOADER + "PERSISTENT_WORKERS", "false", "persistent_workers", False),
        (DATALOADER + "PIN_MEMORY", "true", "pin_memory", True),
        (DATALOADER + "PIN_MEMORY", "false", "pin_memory", False),
        ("AMI_NUM_WORKERS", "2", "num_workers", 2),
    ],
)
def test_a_setting_reaches_the_dataloader(setting: str, value: str, attribute: str, expected: Any) -> None:
    # A loader that serves many jobs keeps its processes, whatever that setting says.
    changes = {DATALOADER + "LIFETIME": "job", setting: value}
    assert getattr(loader_for(**changes), attribute) == expected


def test_defaults_of_the_dataloader() -> None:
    loader = loader_for()
    assert (loader.timeout, loader.prefetch_factor, loader.persistent_workers) == (300, 4, True)
    assert loader.multiprocessing_context.get_start_method() == "forkserver"
    assert loader.pin_memory == torch.accelerator.is_available()


def test_without_loader_processes_there_is_no_context_timeout_prefetch_or_persistence() -> None:
    names = ("MP_CONTEXT", "TIMEOUT_S", "PREFETCH_FACTOR", "PERSISTENT_WORKERS")
    set_all = dict(zip((DATALOADER + n for n in names), ("spawn", "17", "7", "true"), strict=True))
    loader = loader_for(AMI_NUM_WORKERS="0", **set_all)
    assert loader.multiprocessing_context is None
    assert (loader.timeout, loader.prefetch_factor, loader.persistent_workers) == (0, None, False)


def test_pinning_follows_an_accelerator_that_appears_after_the_import_and_carries_the_batch() -> None:
    program = """
import torch
from worker.ingest.batch import BatchRequest
from worker.ingest.loader import Loader, pins_memory
from worker.antenna.schemas import Task
from worker.settings import read
from amidiag.soak.faults import accelerator
settings = read(environ={"AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": "fork"}).settings
before = pins_memory(settings)
said = accelerator.arm()
assert before == said.startswith("not needed"), (before, said)
assert pins_memory(settings)
class Once:
    request = BatchRequest((Task("1", "2", "http://127.0.0.1:9/none.jpg", "r"),), 1)
    def next_request(self):
        request, self.request = self.request, None
        return request
    def arrived(self, batch):
        pass
with Loader(settings) as loader:
    loader.begin(Once())
    batch = loader.next()
    assert loader.next() is None
assert batch.failures[0].task.id == "1", batch
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn", ""])
def test_images_of_mixed_sizes_arrive_as_they_are_by_every_start_method(
    server: AntennaServer, method: str
) -> None:
    specs = traps(6)
    tasks = tasks_of(server, *specs)
    settings = settings_for(server, **{DATALOADER + "MP_CONTEXT": method})
    arrived = list(batches(settings, tasks[:4], tasks[4:]))
    assert [[t.id for t in b.tasks] for b in arrived] == [
        [t.id for t in tasks[:4]],
        [t.id for t in tasks[4:]],
    ]
    images = [image for batch in arrived for image in batch.images(torch.device("cpu"))]
    for spec, image in zip(specs, images, strict=True):
        assert image.dtype == torch.uint8
        assert np.array_equal(image.permute(1, 2, 0).numpy(), decode(render(spec).data, 10**9))


@pytest.mark.parametrize("loader_processes", [0, 1])
def test_every_broken_image_is_a_failure_of_its_own_task(
    server: AntennaServer, loader_processes: int
) -> None:
    (good,) = traps(1)
    spoiled = [traps(1, broken=how)[0] for how in ("truncated", "empty", "html", "not_an_image")]
    tasks = tasks_of(server, *spoiled, good, ImageSpec(good, missing=True), ImageSpec(good, cut=True))
    elsewhere = [Task("x", "x", url, "r") for url in ("ftp://host/a.jpg", "no-url", "http://127.0.0.1:1/a")]
    (batch,) = batches(settings_for(server, AMI_NUM_WORKERS=loader_processes), [*tasks, *elsewhere])
    assert [t.id for t in batch.tasks] == [tasks[4].id]
    assert [f.task for f in batch.failures] == [*tasks[:4], *tasks[5:], *elsewhere]
    assert all(f.error.startswith("failed to load image: ") for f in batch.failures)
    assert "404" in batch.failures[4].error
    assert "Connection refused" in batch.failures[-1].error


def test_a_batch_of_failures_alone_has_no_pixels(server: AntennaServer) -> None:
    (batch,) = batches(settings_for(server), [Task("1", "2", "http://127.0.0.1:1/a", None)])
    assert (batch.pixels.numel(), batch.images(torch.device("cpu")), len(batch.failures)) == (0, [], 1)


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_batch_of_mixed_sizes_holds_one_descriptor(server: AntennaServer) -> None:
    tasks = tasks_of(server, *traps(8))
    with Loader(settings_for(server, **{DATALOADER + "PREFETCH_FACTOR": 1})) as loader:
        loader.begin(Lists(tasks))
        before = open_fds()
        batch = loader.next()
        assert batch is not None
        assert len(batch.shapes) == 8
        held = open_fds()
        del batch
        assert held - open_fds() == 1
        assert open_fds() <= before


@pytest.mark.parametrize(
    "changes",
    [
        {"AMI_NUM_WORKERS": "0"},
        {},
        {DATALOADER + "LIFETIME": "job"},
        {DATALOADER + "LIFETIME": "job", DATALOADER + "PERSISTENT_WORKERS": "true"},
    ],
)
def test_descriptors_threads_and_children_are_back_after_each_loader(
    server: AntennaServer, changes: dict[str, str]
) -> None:
    tasks = tasks_of(server, *traps(2))
    settings = settings_for(server, **changes)

    def use() -> tuple[int, int, int]:
        assert len(list(batches(settings, tasks, tasks))) == 2
        # torch closes the pipe of an index queue in that queue's own thread.
        for thread in threading.enumerate():
            if thread.name == "QueueFeederThread":
                thread.join(10)
        return open_fds(), threading.active_count(), len(active_children())

    assert use() == use() == use()


def test_a_loader_that_is_left_half_way_ends(server: AntennaServer) -> None:
    tasks = tasks_of(server, *traps(3))
    with Loader(settings_for(server)) as loader:
        loader.begin(Lists(*([t] for t in tasks)))
        assert loader.next() is not None
        assert len(active_children()) == 1
    assert active_children() == []


def test_a_killed_loader_process_is_an_error_at_the_next_wait_and_nowhere_else(server: AntennaServer) -> None:
    (spec,) = traps(1)
    tasks = tasks_of(server, ImageSpec(spec, slow_s=20))
    with Loader(settings_for(server)) as loader:
        loader.begin(Lists(tasks))
        (child,) = active_children()
        child.kill()
        # torch's SIGCHLD handler would raise here, in the middle of the work on another batch.
        child.join()
        assert sum(range(100_000)) == 4_999_950_000
        with pytest.raises(LoaderError, match=r"DataLoader worker \(pid"):
            loader.next()
    assert active_children() == []


def test_a_loader_process_that_dies_during_the_wait_ends_the_wait(server: AntennaServer) -> None:
    (spec,) = traps(1)
    tasks = tasks_of(server, ImageSpec(spec, slow_s=20))
    with Loader(settings_for(server)) as loader:
        loader.begin(Lists(tasks))
        (child,) = active_children()
        killer = threading.Timer(0.5, child.kill)
        killer.start()
        with pytest.raises(LoaderError, match=r"DataLoader worker \(pid"):
            loader.next()
        killer.join()


def kill_while_loading(loader: Loader, number: int) -> None:
    assert loader._beats is not None
    while (shown := loader._beats.read(number)) is None or shown.phase != LOADING:
        time.sleep(0.02)
    time.sleep(0.5)
    loader.processes[number].kill()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_death_during_a_wait_is_noticed_long_before_the_limit_and_the_guilty_request_known(
    server: AntennaServer, method: str
) -> None:
    """Under forkserver no SIGCHLD comes, and torch asks only when its time-out, 300 s, has passed."""
    (spec,) = traps(1)
    first, second = tasks_of(server, ImageSpec(spec, slow_s=30), ImageSpec(spec, slow_s=31))
    settings = settings_for(server, AMI_NUM_WORKERS="2", **{DATALOADER + "MP_CONTEXT": method})
    with Loader(settings) as loader:
        loader.begin(Lists([first], [second]))
        loader.ask()
        killer = threading.Thread(target=kill_while_loading, args=[loader, 1])
        killer.start()
        began = time.monotonic()
        with pytest.raises(LoaderError, match=r"DataLoader worker \(pid") as failed:
            loader.wait()
        assert time.monotonic() - began < 25
        assert failed.value.suspect == 1


def test_a_loader_that_died_between_two_jobs_is_built_anew(server: AntennaServer) -> None:
    tasks = tasks_of(server, *traps(1))
    with Loader(settings_for(server)) as loader:
        loader.begin(Lists(tasks))
        assert len(list(iter(loader.next, None))) == 1
        loader.processes[0].kill()
        loader.processes[0].join()
        loader.begin(Lists(tasks))
        assert len(list(iter(loader.next, None))) == 1


def test_a_batch_that_does_not_come_in_time_is_an_error(server: AntennaServer) -> None:
    (spec,) = traps(1)
    tasks = tasks_of(server, ImageSpec(spec, slow_s=2))
    settings = settings_for(server, **{DATALOADER + "TIMEOUT_S": "0.5"})
    with pytest.raises(LoaderError, match=r"timed out after 0\.5"):
        list(batches(settings, tasks))
    assert active_children() == []


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_one_loader_serves_many_jobs_by_the_same_processes(server: AntennaServer, method: str) -> None:
    tasks = tasks_of(server, *traps(4))
    built: list[None] = []
    settings = settings_for(server, AMI_NUM_WORKERS="2", **{DATALOADER + "MP_CONTEXT": method})
    with Loader(settings, built=lambda: built.append(None)) as loader:
        seen = set()
        for _ in range(3):
            loader.begin(Lists(tasks[:2], tasks[2:]))
            arrived = list(iter(loader.next, None))
            assert [t.id for b in arrived for t in b.tasks] == [t.id for t in tasks]
            seen.add(tuple(p.pid for p in loader.processes))
        assert (len(seen), len(built)) == (1, 1)
    assert active_children() == []


def test_a_source_that_holds_back_is_asked_again_after_each_batch(server: AntennaServer) -> None:
    tasks = tasks_of(server, *traps(5))
    source = Lists(*([t] for t in tasks), at_once=1)
    with Loader(settings_for(server)) as loader:
        loader.begin(source)
        arrived = list(iter(loader.next, None))
    assert (len(arrived), source.most_in_flight) == (5, 1)


def test_a_loader_that_failed_or_was_left_half_way_is_built_anew(server: AntennaServer) -> None:
    (spec,) = traps(1)
    quick, slow = tasks_of(server, spec, ImageSpec(spec, slow_s=20))
    built: list[None] = []
    with Loader(settings_for(server), built=lambda: built.append(None)) as loader:
        loader.begin(Lists([slow]))
        loader.processes[0].kill()
        with pytest.raises(LoaderError):
            loader.next()
        assert active_children() == []
        loader.begin(Lists([quick], [quick]))
        assert loader.next() is not None
        # One batch is still to come: it must not be taken for one of the next job.
        loader.begin(Lists([quick]))
        assert len(list(iter(loader.next, None))) == 1
    assert len(built) == 3


def test_every_loader_process_is_asked_once_to_empty_its_caches(server: AntennaServer) -> None:
    tasks = tasks_of(server, *traps(2))
    with Loader(settings_for(server, AMI_NUM_WORKERS="2")) as loader:
        loader.begin(Lists(tasks))
        assert loader.next() is not None
        assert loader.next() is None
        pids = [batch.report.pid for batch in loader.drain_caches(1)]
        assert sorted(pids) == sorted(p.pid for p in loader.processes if p.pid is not None)


LEAKY = """
import gc, os
from amidiag.soak.faults import accelerator, torch_atexit
from worker.ingest.loader import Loader
from worker.settings import read
print(accelerator.arm(), torch_atexit.arm())
settings = read(environ={environ}).settings

class Nothing:
    def next_request(self): return None
    def arrived(self, batch): pass

def fds():
    gc.collect()
    return len(os.listdir("/proc/self/fd"))

def use():
    with Loader(settings) as loader:
        loader.begin(Nothing())
        assert loader.next() is None
use()
before = fds()
for _ in range(4):
    use()
assert fds() - before == {leaked}, (fds(), before)
"""


@pytest.mark.parametrize(("avoid", "leaked"), [("true", 0), ("false", 8)])
def test_the_pipes_that_an_affected_torch_leaks_are_given_back_unless_told_otherwise(
    avoid: str, leaked: int
) -> None:
    environ = {
        DATALOADER + "MP_CONTEXT": "fork",
        DATALOADER + "LIFETIME": "job",
        DATALOADER + "PERSISTENT_WORKERS": "true",
        DATALOADER + "PIN_MEMORY": "true",
        "AMI_AVOID_TORCH_ATEXIT_LEAK": avoid,
    }
    program = LEAKY.replace("{environ}", repr(environ)).replace("{leaked}", str(leaked))
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
