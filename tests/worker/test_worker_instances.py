"""Several workers under one parent: what each gets, how they are told to end, and that none is left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from worker_rig import LIMIT_S, Running, ended, job, traps

from amidiag.soak.antenna import AntennaServer
from worker.guard.budget import memory_left
from worker.instances import gpus, plan
from worker.settings import WorkerSettings, read

Start = Callable[..., Running]


def machine(root: Path, *minors: int, nodes: tuple[int, ...]) -> dict[str, Path]:
    """The files by which a driver lists its GPUs, and device nodes."""
    for minor in minors:
        card = root / "gpus" / f"0000:{minor:02x}:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text(f"Model: \t\t NVIDIA\nDevice Minor: \t {minor}\n")
    (root / "dev").mkdir(parents=True)
    for node in nodes:
        (root / "dev" / f"nvidia{node}").touch()
    return {"driver": root / "gpus", "devices": root / "dev"}


def test_gpus_are_those_that_the_driver_lists_and_that_have_a_node_here(tmp_path: Path) -> None:
    all_of_them = machine(tmp_path / "host", 0, 1, 2, nodes=(0, 1, 2))
    assert gpus({}, **all_of_them) == ("0", "1", "2")
    # CUDA numbers what it finds.
    assert gpus({}, **machine(tmp_path / "container", 0, 1, 2, nodes=(2,))) == ("0",)
    assert gpus({}, **machine(tmp_path / "none", nodes=())) == ()


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("", ()),
        ("2,3", ("2", "3")),
        (" GPU-8932f937 , MIG-1/2/3", ("GPU-8932f937", "MIG-1/2/3")),
        ("0,-1,1", ("0",)),
        ("-1", ()),
        ("none", ()),
    ],
)
def test_an_operators_choice_of_gpus_is_read_as_cuda_does(
    tmp_path: Path, visible: str, found: tuple[str, ...]
) -> None:
    here = machine(tmp_path, 0, 1, nodes=(0, 1))
    assert gpus({"CUDA_VISIBLE_DEVICES": visible}, **here) == found


def settings(**changes: object) -> WorkerSettings:
    return read(Path("/dev/null"), {k: str(v) for k, v in changes.items()}).settings


@pytest.mark.parametrize(
    ("instances", "found", "given"),
    [
        (0, (), [None]),
        (0, ("0",), [None]),
        (1, ("0", "1"), [None]),
        (0, ("0", "1"), ["0", "1"]),
        (3, ("4", "GPU-a"), ["4", "GPU-a", "4"]),
        (2, (), [None, None]),
    ],
)
def test_each_worker_has_its_gpu(instances: int, found: tuple[str, ...], given: list[str | None]) -> None:
    planned = plan(settings(AMI_INSTANCES=instances), found, {})
    assert [extra.get("CUDA_VISIBLE_DEVICES") for extra in planned] == given
    assert all(extra["AMI_INSTANCES"] == "1" for extra in planned if len(planned) > 1)


def test_memory_disk_and_cpus_are_shared_out() -> None:
    planned = plan(settings(AMI_INSTANCES=2, AMI_STAGING_DIR="/s", AMI_STAGING_MAX_BYTES="8G"), (), {})
    left = memory_left()
    assert left is not None
    # A size, for whoever is started anew beside the other too.
    budgets = [int(p["AMI_MEMORY_BUDGET"]) for p in planned]
    assert budgets == [pytest.approx(0.35 * left.bytes, rel=0.2)] * 2
    assert budgets[0] == budgets[1]
    assert [p["AMI_STAGING_DIR"] for p in planned] == ["/s/instance-0", "/s/instance-1"]
    assert {p["AMI_STAGING_MAX_BYTES"] for p in planned} == {str(4 * 1024**3)}
    assert int(planned[0]["OMP_NUM_THREADS"]) >= 1
    for extra in planned:
        read(Path("/dev/null"), extra)
    (first, _) = plan(settings(AMI_INSTANCES=2, AMI_MEMORY_BUDGET="3G"), (), {"OMP_NUM_THREADS": "4"})
    assert first["AMI_MEMORY_BUDGET"] == str(3 * 1024**3 // 2)
    assert "OMP_NUM_THREADS" not in first
    (first, _) = plan(settings(AMI_INSTANCES=2, AMI_MEMORY_BUDGET="0%"), (), {})
    assert first["AMI_MEMORY_BUDGET"] == "0%"
    none = {"AMI_MEMORY_BUDGET": "0", "AMI_WORKER_MAX_MEMORY": "0"}
    (first, _) = plan(settings(AMI_INSTANCES=2, **none), (), {})
    assert not {"AMI_MEMORY_BUDGET", "AMI_WORKER_MAX_MEMORY", "AMI_METRICS_PORT"} & set(first)


def test_the_cap_of_memory_is_shared_out_and_each_has_a_port_of_its_own() -> None:
    planned = plan(settings(AMI_INSTANCES=3, AMI_METRICS_PORT=9100), (), {})
    left = memory_left()
    assert left is not None
    assert [int(p["AMI_WORKER_MAX_MEMORY"]) for p in planned] == [
        pytest.approx(0.3 * left.bytes, rel=0.2)
    ] * 3
    assert [p["AMI_METRICS_PORT"] for p in planned] == ["9100", "9101", "9102"]
    (first, _) = plan(settings(AMI_INSTANCES=2, AMI_WORKER_MAX_MEMORY="3G"), (), {})
    assert first["AMI_WORKER_MAX_MEMORY"] == str(3 * 1024**3 // 2)
    for extra in [*planned, first]:
        read(Path("/dev/null"), extra)


@pytest.fixture
def several(
    start: Start, server: AntennaServer
) -> Iterator[Callable[..., tuple[Running, list[psutil.Process]]]]:
    """A parent of two workers, and those; what is left of them at the end is killed."""
    left: list[psutil.Process] = []

    def begin(*words: str, **changes: object) -> tuple[Running, list[psutil.Process]]:
        parent = start("run", *words, server=server, AMI_INSTANCES=2, **changes)
        limit = time.monotonic() + LIMIT_S
        while len(children := psutil.Process(parent.pid).children()) < 2:
            assert parent.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        left.extend(children)
        return parent, children

    yield begin
    for child in left:
        if child.is_running():
            child.kill()


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end soon."""
    limit = time.monotonic() + LIMIT_S
    while alive := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
        processes = alive
    return True


Several = Callable[..., tuple[Running, list[psutil.Process]]]


def test_a_signal_to_every_process_drains_all_and_the_parent_has_no_torch(
    server: AntennaServer, several: Several
) -> None:
    """As systemd does it: the parent's word to its children must not count as a second signal."""
    server.hold_polls()
    parent, children = several(CUDA_VISIBLE_DEVICES="5,7")
    # A child has its own environment from its exec on.
    while any(child.environ().get("AMI_INSTANCES") != "1" for child in children):
        time.sleep(0.02)
    assert [child.environ()["CUDA_VISIBLE_DEVICES"] for child in children] == ["5", "7"]
    # Ctrl-C in a terminal is for the parent's group.
    assert {os.getpgid(child.pid) for child in children} == {child.pid for child in children}
    assert server.wait_poll(LIMIT_S, count=2)
    assert all(b"libtorch" in Path(f"/proc/{child.pid}/maps").read_bytes() for child in children)
    assert b"libtorch" not in Path(f"/proc/{parent.pid}/maps").read_bytes()
    for process in [psutil.Process(parent.pid), *children]:
        process.send_signal(signal.SIGTERM)
    code, _, err = ended(parent)
    assert code == 0, err
    assert gone(children)
    assert "told to end: 2 workers drain" in err


def test_polls_that_are_counted_are_done_by_each(server: AntennaServer, several: Several) -> None:
    parent, children = several("--once")
    code, _, err = ended(parent)
    assert code == 0, err
    assert err.count(" drained") == 2
    assert "the others drain" not in err
    for child in children:
        assert f"[{child.pid}] INFO    worker.service: worker {child.pid}: torch" in err


def test_the_end_of_one_drains_the_others_and_the_worst_code_counts(several: Several) -> None:
    parent, children = several()
    children[0].kill()
    code, _, err = ended(parent)
    assert code == 70
    assert f"worker {children[0].pid} was ended by a signal: Killed" in err
    assert f"worker {children[0].pid} has ended with 70: the others drain" in err
    assert err.count(" drained") == 1
    assert gone(children)


def test_one_that_wants_to_be_replaced_is_started_again_and_the_others_go_on(
    server: AntennaServer, several: Several
) -> None:
    for _ in range(2):
        server.add_job(job(*traps(2)))
    # Each has worked or polled once when it is too old.
    parent, _ = several(AMI_WORKER_MAX_AGE_S=0.01)
    said: list[str] = []
    assert parent.stderr is not None
    while sum("in 1 s, since it has not lived long" in line for line in said) < 2:
        said.append(parent.stderr.readline())
        assert said[-1], said
    now = psutil.Process(parent.pid).children()
    parent.send_signal(signal.SIGUSR1)
    code, _, err = ended(parent)
    assert code == 0, err
    assert gone(now)
    assert "others drain" not in "".join(said) + err
    # The first time at once.
    assert sum(line.endswith("wants to be replaced: a new one is started\n") for line in said) == 2
    state = server.state()
    assert (state.results, state.answered_twice) == (4, 0)


def test_of_those_that_have_done_their_polls_none_begins_anew(
    server: AntennaServer, several: Several
) -> None:
    code, _, err = ended(several("--max-polls", "50", AMI_WORKER_MAX_AGE_S=0.01)[0])
    assert code == 75, err
    assert "is started" not in err


def test_nothing_is_left_of_a_parent_that_was_killed(several: Several) -> None:
    parent, children = several()
    parent.kill()
    assert gone(children)


def test_a_second_signal_ends_all_at_once(several: Several) -> None:
    parent, children = several()
    parent.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert parent.poll() is None
    parent.send_signal(signal.SIGTERM)
    assert ended(parent)[0] == 128 + signal.SIGTERM
    assert gone(children)


def test_a_wrong_setting_is_said_once_and_nothing_is_started(start: Start) -> None:
    code, _, err = ended(start("run", AMI_INSTANCES=2, AMI_PIPELINES="butterflies"))
    wrong = [line for line in err.splitlines() if "bad setting" in line]
    assert (code, len(wrong)) == (78, 1)
