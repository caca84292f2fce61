"""The faults do what they say, in a real DataLoader; without them this torch does not leak."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LOADERS = 12

PROGRAM = """
import gc, json, os, warnings
warnings.filterwarnings("ignore")
import torch
from torch.utils.data import DataLoader

def orphans():
    ends = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink("/proc/self/fd/" + fd)
        except FileNotFoundError:
            continue
        if link.startswith("pipe:"):
            mode = os.lstat("/proc/self/fd/" + fd).st_mode
            ends.setdefault(link, []).append(bool(mode & 0o200))
    return sum(len(e) for e in ends.values() if len(set(e)) == 1)

def build(n):
    for _ in range(n):
        loader = DataLoader(torch.zeros(4, 2), num_workers=1, persistent_workers=%(persistent)s,
                            pin_memory=True, multiprocessing_context="fork")
        assert len(list(loader)) == 4
        del loader
        gc.collect()
    return len(os.listdir("/proc/self/fd")), orphans()

build(2)
before = build(1)
after = build(%(loaders)d)
print(json.dumps({"fds": after[0] - before[0], "orphans": after[1] - before[1]}))
"""


def _grown(tmp_path: Path, faults: list[str], *, persistent: bool) -> tuple[dict[str, int], dict[str, str]]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM % {"persistent": persistent, "loaders": LOADERS})
    report = tmp_path / "faults.json"
    arm = [word for name in faults for word in ("--arm", name)]
    words = [
        sys.executable,
        "-m",
        "amidiag.soak.faults.launcher",
        *arm,
        "--report",
        str(report),
        "--",
        str(program),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout), json.loads(report.read_text())


def test_two_orphaned_pipe_ends_per_loader_process(tmp_path) -> None:
    grown, said = _grown(tmp_path, ["emulated-accelerator", "torch-atexit-per-loader"], persistent=True)
    assert grown == {"fds": 2 * LOADERS, "orphans": 2 * LOADERS}
    assert said["torch-atexit-per-loader"].startswith("armed")
    assert said["emulated-accelerator"].startswith("armed")


def test_loader_processes_that_are_not_persistent_do_not_leak(tmp_path) -> None:
    grown, _ = _grown(tmp_path, ["emulated-accelerator", "torch-atexit-per-loader"], persistent=False)
    assert grown == {"fds": 0, "orphans": 0}


def test_this_torch_by_itself_does_not_leak(tmp_path) -> None:
    grown, _ = _grown(tmp_path, ["emulated-accelerator"], persistent=True)
    assert grown == {"fds": 0, "orphans": 0}


ON_DEMAND = """
import sys, warnings
from pathlib import Path
warnings.filterwarnings("ignore")
from torch.utils.data import DataLoader

class Slowly:
    def __getitems__(self, keys):
        import time
        time.sleep(0.05)
        return keys

if __name__ == "__main__":
    trigger, context = Path(sys.argv[1]), sys.argv[2]
    loader = DataLoader(Slowly(), batch_sampler=[[n] for n in range(200)], num_workers=1, prefetch_factor=2,
                        multiprocessing_context=context, timeout=4, collate_fn=list)
    batches = iter(loader)
    print(next(batches))
    trigger.touch()
    try:
        print("whole", len(list(batches)))
    except RuntimeError as error:
        print("ended", str(error).splitlines()[-1])
    print("taken", not trigger.exists())
"""


@pytest.mark.parametrize(
    ("fault", "context", "ends"),
    [
        ("loader-raises", "forkserver", "RuntimeError: planted: the loader raises"),
        ("loader-exits", "fork", "exited unexpectedly"),
    ],
)
def test_a_loader_process_fails_when_it_is_told_to(
    tmp_path: Path, fault: str, context: str, ends: str
) -> None:
    """The feeder thread's: tests/worker/test_worker_hang.py, where nothing waits for DataLoader's timeout."""
    program, triggers = tmp_path / "program.py", tmp_path / "triggers"
    program.write_text(ON_DEMAND)
    triggers.mkdir()
    words = [sys.executable, "-m", "amidiag.soak.faults.launcher", "--arm", "loader-on-demand"]
    done = subprocess.run(
        [*words, "--report", str(tmp_path / "report"), "--", str(program), str(triggers / fault), context],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AMIDIAG_FAULT_TRIGGERS": str(triggers)},
    )
    first, ended, taken = done.stdout.splitlines()
    assert (first, taken) == ("[0]", "taken True")
    assert ended.startswith("ended"), done.stderr
    assert ends in ended
    assert not list(triggers.iterdir())


def test_without_a_directory_for_its_triggers_it_is_not_armed(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "amidiag.soak.faults.launcher", "--arm", "loader-on-demand"]
    done = subprocess.run(
        [*words, "--report", str(tmp_path / "report"), "--", "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs the directory of its triggers in AMIDIAG_FAULT_TRIGGERS" in done.stderr
