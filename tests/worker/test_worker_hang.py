"""No wait for a loader is without an end: one that is stopped, stuck, dead, has written half, has lost a batch."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import signal
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.utils.data._utils.worker as torchs_worker
from worker_rig import Running, job, settings_for, traps

from amidiag.soak.antenna import AntennaServer, ImageSpec
from amidiag.soak.faults import accelerator, on_demand
from worker.antenna.client import AntennaClient
from worker.antenna.schemas import Task
from worker.ingest import dataset, loader_watch, packing
from worker.ingest.batch import Batch, BatchRequest
from worker.ingest.beat import Beat
from worker.ingest.loader import Loader, LoaderError
from worker.ingest.loader_watch import WatchLimits

pytestmark = pytest.mark.timeout(120)

METHOD = "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT"
Start = Callable[..., Running]


class Given:
    """A source of requests of one task each."""

    def __init__(self, *tasks: Task) -> None:
        self._left = list(tasks)

    def next_request(self) -> BatchRequest | None:
        return BatchRequest((self._left.pop(0),), 1) if self._left else None

    def arrived(self, batch: Batch) -> None:
        pass


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_watch, "STOPPED_S", 0.3)
    monkeypatch.setattr(loader_watch, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(loader_watch, "_POKED_AFTER_S", 0.3)


@pytest.fixture
def tasks(server: AntennaServer) -> list[Task]:
    return reserved(server, 0.0)


@pytest.fixture
def slow_tasks(server: AntennaServer) -> list[Task]:
    return reserved(server, 30.0)


def reserved(server: AntennaServer, slow_s: float) -> list[Task]:
    client = AntennaClient(server.base_url, server.config.token)
    tasks = client.reserve(server.add_job(job(*(ImageSpec(trap, slow_s=slow_s) for trap in traps(3)))), 10)
    client.close()
    return tasks


@pytest.fixture
def pin(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Emulate an accelerator until the end of the test."""

    def arm() -> None:
        for owner, names in (
            (torch.accelerator, ("is_available", "current_device_index", "set_device_index")),
            (torch.Tensor, ("pin_memory",)),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, getattr(owner, name))
        accelerator.arm()

    return arm


@pytest.fixture(params=["fork", "fork-pinned"])
def loader(
    request: pytest.FixtureRequest, server: AntennaServer, pin: Callable[[], None]
) -> Iterator[Loader]:
    method, _, pinned = str(request.param).partition("-")
    if pinned:
        pin()
    threads = threading.active_count()
    with Loader(settings_for(server, **{METHOD: method})) as loader:
        yield loader
    assert_all_gone(threads)


@pytest.fixture
def forked(server: AntennaServer) -> Iterator[Loader]:
    with Loader(settings_for(server)) as loader:
        yield loader


def assert_all_gone(threads: int) -> None:
    """No process, no pinning thread and no watch is left behind."""
    assert multiprocessing.active_children() == []
    for thread in threading.enumerate():
        if thread.name == "QueueFeederThread":
            thread.join(10)
    assert threading.active_count() <= threads


def shown(loader: Loader) -> Beat:
    assert loader._beats is not None
    beat = loader._beats.read(0)
    assert beat is not None
    return beat


def until(true: Callable[[], object]) -> None:
    while not true():
        time.sleep(0.01)


def pid_of(loader: Loader) -> int:
    pid = loader.processes[0].pid
    assert pid is not None
    return pid


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def all_of(loader: Loader) -> int:
    return len(list(iter(loader.next, None)))


def test_a_process_stopped_when_idle_is_killed_and_the_next_one_brings_the_batches(
    loader: Loader, tasks: list[Task]
) -> None:
    loader.begin(Given(tasks[0]))
    assert all_of(loader) == 1
    stop(pid_of(loader))
    loader.begin(Given(*tasks))
    with pytest.raises(LoaderError, match=r"loader process \d+ is stopped: killed") as failed:
        loader.next()
    assert failed.value.suspect is None
    loader.begin(Given(*tasks))
    assert all_of(loader) == 3


def test_a_process_stopped_in_a_download_is_killed(loader: Loader, slow_tasks: list[Task]) -> None:
    loader.begin(Given(*slow_tasks))
    loader.ask()
    until(lambda: shown(loader).begun)
    stop(pid_of(loader))
    with pytest.raises(LoaderError, match="is stopped: killed") as failed:
        loader.next()
    assert failed.value.suspect is None


@pytest.mark.parametrize("loader", ["fork", "fork-pinned", "forkserver"], indirect=True)
def test_a_process_stopped_with_batches_queued_does_not_hold_the_main_thread_in_recv(
    loader: Loader, tasks: list[Task]
) -> None:
    """The hang of issue #140, at which DataLoader's time limit does not fire: FACTS 8."""
    loader.begin(Given(*tasks))
    loader.ask()
    until(lambda: shown(loader).finished == 3)
    time.sleep(0.2)  # for its feeder thread to have sent them
    stop(pid_of(loader))
    with pytest.raises(LoaderError, match="is stopped: killed"):
        # Where memory is pinned, a thread has taken them before.
        all_of(loader)
        loader.begin(Given(*tasks))
        all_of(loader)
    loader.begin(Given(*tasks))
    assert all_of(loader) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_a_dead_process_has_written_half_ends_the_wait_and_leaves_no_thread_behind(
    loader: Loader, slow_tasks: list[Task]
) -> None:
    loader.begin(Given(*slow_tasks))
    loader.ask()
    until(lambda: shown(loader).begun)
    os.write(loader._iterator._worker_result_queue._writer.fileno(), struct.pack("!i", 1000) + b"half")
    time.sleep(0.2)
    killer = threading.Timer(0.3, loader.processes[0].kill)
    killer.start()
    with pytest.raises(LoaderError, match=r"died|killed by signal|exited unexpectedly"):
        loader.wait()
    killer.join()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_batch_that_cannot_be_sent_is_lost_and_its_process_killed(
    loader: Loader, tasks: list[Task]
) -> None:
    loader._watch._limits = WatchLimits(stall_s=20, lost_s=1, build_s=60)
    loader.begin(Given(*tasks))
    loader._iterator._worker_result_queue._wlock.acquire()
    with pytest.raises(LoaderError, match="is idle, and its batch has not come for 1 s") as failed:
        loader.next()
    assert failed.value.suspect is None
    loader.begin(Given(*tasks))
    assert all_of(loader) == 3


def test_a_request_that_does_not_arrive_is_not_taken_for_a_batch_that_was_lost(
    forked: Loader, tasks: list[Task]
) -> None:
    forked._watch._limits = WatchLimits(stall_s=2, lost_s=0.5, build_s=60)
    forked.begin(Given(*tasks))
    assert all_of(forked) == 3
    # Held by the worker itself: the process waits for the next request.
    held = forked._iterator._index_queues[0]._wlock
    held.acquire()
    forked.begin(Given(*tasks))
    with pytest.raises(LoaderError, match="has not begun with what it was asked for 2 s ago") as failed:
        forked.next()
    held.release()
    assert failed.value.suspect is None
    forked.begin(Given(*tasks))
    assert all_of(forked) == 3


def test_a_process_that_hangs_at_an_image_is_killed_and_the_image_known(
    forked: Loader, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stuck:
        """A decoder that never comes back from the second image."""

        images = 0

        def __call__(self, *args: Any) -> Any:
            self.images += 1
            return header(*args) if self.images == 1 else threading.Event().wait()

    header = dataset.read_header
    monkeypatch.setattr(dataset, "read_header", Stuck())
    forked._watch._limits = WatchLimits(stall_s=1, lost_s=20, build_s=60)
    forked.begin(Given(*tasks))
    assert forked.next() is not None
    with pytest.raises(LoaderError, match="no sign of life for 1 s") as failed:
        forked.next()
    assert failed.value.suspect == 0


class Slow:
    """A decoder that computes: until so much time has passed, or so much CPU time was had."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds, self._clock, self._own = seconds, clock, dataset.decode_into

    def __call__(self, *args: Any) -> None:
        until_then = self._clock() + self._seconds
        while self._clock() < until_then:
            pass
        self._own(*args)


def test_a_process_that_decodes_for_long_is_let_be(
    forked: Loader, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_watch, "LOOK_EVERY_S", 0.5)
    monkeypatch.setattr(dataset, "decode_into", Slow(4, time.monotonic))
    forked._watch._limits = WatchLimits(stall_s=2.5, lost_s=20, build_s=60)
    forked.begin(Given(tasks[0]))
    assert all_of(forked) == 1


def test_a_process_that_never_comes_back_from_its_work_is_killed(
    forked: Loader, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "decode_into", Slow(1000, time.monotonic))
    forked._watch._limits = WatchLimits(stall_s=0.5, lost_s=20, build_s=60)
    forked.begin(Given(tasks[0]))
    with pytest.raises(LoaderError, match="no sign of life") as failed:
        forked.next()
    assert failed.value.suspect == 0


def test_time_in_which_the_worker_and_its_processes_were_stopped_counts_for_nothing(
    server: AntennaServer, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_watch, "STOPPED_S", 2.0)
    monkeypatch.setattr(dataset, "decode_into", Slow(1, time.process_time))

    def work(said: Connection) -> None:
        with Loader(settings_for(server)) as loader:
            loader._watch._limits = WatchLimits(stall_s=2.5, lost_s=2.5, build_s=60)
            loader.begin(Given(tasks[0]))
            loader.ask()
            until(lambda: shown(loader).begun)
            said.send(pid_of(loader))
            said.send(all_of(loader))

    said, says = multiprocessing.get_context("fork").Pipe(duplex=False)
    worker = multiprocessing.get_context("fork").Process(target=work, args=[says])
    worker.start()
    says.close()
    assert worker.pid is not None
    pids = (worker.pid, said.recv())
    time.sleep(0.5)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    assert said.recv() == 1
    worker.join()


def take_all_numbers(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))


def test_a_process_without_a_free_descriptor_is_named_as_such(
    forked: Loader, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "WAIT_S", 0.1)
    forked.begin(Given(*tasks))
    assert all_of(forked) == 3
    take_all_numbers(pid_of(forked))
    forked.begin(Given(*tasks))
    with pytest.raises(LoaderError, match="EMFILE") as failed:
        forked.next()
    assert (failed.value.suspect, failed.value.exhausted) == (None, "EMFILE: Too many open files")
    forked.begin(Given(*tasks))
    assert all_of(forked) == 3


def test_a_process_that_cannot_hand_a_batch_over_ends_with_its_reason(
    forked: Loader, tasks: list[Task]
) -> None:
    """multiprocessing's thread would print the error for ever, and the main thread wait for the FD."""
    forked.begin(Given(*tasks))
    forked.ask()
    until(lambda: shown(forked).finished == 3)
    time.sleep(0.2)
    take_all_numbers(pid_of(forked))
    with pytest.raises(LoaderError, match=r"EMFILE.*could not be handed over") as failed:
        all_of(forked)
    assert (failed.value.suspect, failed.value.exhausted) == (None, "EMFILE: Too many open files")


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Plant a fault in the loader process that is built next."""
    monkeypatch.setenv(on_demand.TRIGGERS, str(tmp_path))
    monkeypatch.setattr(torchs_worker, "_worker_loop", torchs_worker._worker_loop)
    on_demand.arm()
    return lambda name: (tmp_path / name).touch()


def test_what_a_loader_process_raises_is_put_down_to_the_request(
    forked: Loader, tasks: list[Task], fault: Callable[[str], None]
) -> None:
    fault(on_demand.RAISE)
    forked.begin(Given(*tasks))
    with pytest.raises(LoaderError, match="planted: the loader raises") as failed:
        all_of(forked)
    assert failed.value.suspect == 0


def test_a_loader_process_that_exits_is_noticed(
    forked: Loader, slow_tasks: list[Task], fault: Callable[[str], None]
) -> None:
    forked.begin(Given(*slow_tasks))
    forked.ask()
    until(lambda: shown(forked).begun)
    fault(on_demand.EXIT)
    with pytest.raises(LoaderError, match="DataLoader worker") as failed:
        forked.wait()
    assert failed.value.suspect == 0


@pytest.mark.parametrize(
    ("kind", "said", "exhausted"),
    [
        (on_demand.FEEDER_DIES, "the thread that sends its batches has ended", None),
        (
            on_demand.FEEDER_ERROR,
            "ENOSPC.*a batch could not be sent.*planted",
            "ENOSPC: No space left on device",
        ),
    ],
)
def test_a_feeder_thread_that_fails_ends_its_process_with_the_reason(
    forked: Loader,
    tasks: list[Task],
    fault: Callable[[str], None],
    kind: str,
    said: str,
    exhausted: str | None,
) -> None:
    forked.begin(Given(*tasks))
    assert forked.next() is not None
    fault(kind)
    with pytest.raises(LoaderError, match=said) as failed:
        while True:
            all_of(forked)
            forked.begin(Given(*tasks))
    assert (failed.value.suspect, failed.value.exhausted) == (None, exhausted)
    forked.begin(Given(*tasks))
    assert all_of(forked) == 3


def test_a_stopped_fork_server_is_replaced(server: AntennaServer, tasks: list[Task]) -> None:
    with Loader(settings_for(server, **{METHOD: "forkserver"})) as loader:
        loader.begin(Given(*tasks))
        assert all_of(loader) == 3
        loader.close()
        pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
        stop(pid)
        with pytest.raises(LoaderError, match=r"the fork server|could not be built"):
            loader.begin(Given(*tasks))
        loader.begin(Given(*tasks))
        assert all_of(loader) == 3
        assert not psutil.pid_exists(pid)


def test_without_a_place_for_signs_of_life_the_loader_works_and_says_so_once(
    server: AntennaServer,
    tasks: list[Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    (tmp_path / "open").chmod(0o755)
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(tmp_path / "open"))
    with Loader(settings_for(server)) as loader:
        for _ in range(2):
            loader.begin(Given(*tasks))
            assert all_of(loader) == 3
            loader.close()
    (said,) = [r for r in caplog.records if "signs of life" in r.message]
    assert "mode 0700" in said.message


def test_signs_of_life_leave_no_file_behind_not_even_those_of_a_killed_worker(
    server: AntennaServer, tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMIDIAG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    left = tmp_path / "run" / "4194303-1-0.beats"
    left.touch()
    with Loader(settings_for(server)) as loader:
        loader.begin(Given(*tasks))
        assert [path.name.split("-")[0] for path in (tmp_path / "run").iterdir()] == [str(os.getpid())]
        assert all_of(loader) == 3
    assert list((tmp_path / "run").iterdir()) == []


def working(start: Start, server: AntennaServer, method: str) -> tuple[Running, list[psutil.Process]]:
    """A worker in the middle of a job, with all its descendants."""
    server.add_job(job(*(ImageSpec(trap, slow_s=0.5) for trap in traps(40))))
    process = start("run", server=server, **{METHOD: method, "AMI_ANTENNA_API_BATCH_SIZE": 1})
    until(lambda: server.state().results)
    return process, psutil.Process(process.pid).children(recursive=True)


def loader_among(children: list[psutil.Process]) -> psutil.Process:
    return next(child for child in children if "pt_data_worker" in child.name())


def left_of(children: list[psutil.Process]) -> list[psutil.Process]:
    limit = time.monotonic() + 30
    while (left := [c for c in children if is_there(c)]) and time.monotonic() < limit:
        time.sleep(0.05)
    for child in left:
        child.kill()
    return left


def is_there(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_stopped_loader_process_does_not_outlive_a_killed_worker(
    server: AntennaServer, start: Start, method: str
) -> None:
    process, children = working(start, server, method)
    loader_among(children).suspend()
    process.kill()
    process.communicate()
    assert left_of(children) == []


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_worker_told_to_end_ends_with_0_though_a_loader_process_is_stopped(
    server: AntennaServer, start: Start, method: str
) -> None:
    process, children = working(start, server, method)
    loader_among(children).suspend()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, left_of(children)) == (0, [])
    assert "drained" in err


def test_a_second_signal_ends_at_once_though_a_loader_process_is_stopped(
    server: AntennaServer, start: Start
) -> None:
    process, children = working(start, server, "forkserver")
    loader_among(children).suspend()
    process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    # The drain may be over by then, and the handlers gone.
    assert process.returncode in (0, -signal.SIGUSR1, 128 + signal.SIGUSR1)
    assert left_of(children) == []


def test_a_worker_that_is_stopped_and_goes_on_finishes_its_job(server: AntennaServer, start: Start) -> None:
    server.add_job(job(*(ImageSpec(trap, slow_s=0.1) for trap in traps(12))))
    process = start("run", "--once", server=server, AMI_WORKER_WATCHDOG_S=2, AMI_ANTENNA_API_BATCH_SIZE=1)
    until(lambda: server.state().results)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert server.state().results == 12


def test_processes_that_are_killed_leave_no_directories_behind(
    server: AntennaServer, tasks: list[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        monkeypatch.setattr(util, "_remove_temp_dir", lambda *args: None)
        monkeypatch.setitem(vars(multiprocessing.current_process())["_config"], "tempdir", None)
        with Loader(settings_for(server)) as loader:
            for _ in range(3):
                loader.begin(Given(*tasks))
                assert all_of(loader) == 3
                loader.processes[0].kill()
                loader.processes[0].join()
            assert len(list(Path(place).iterdir())) == 1
            # As a cleaner of /tmp would.
            shutil.rmtree(next(Path(place).iterdir()))
            loader.begin(Given(*tasks))
            assert all_of(loader) == 3
