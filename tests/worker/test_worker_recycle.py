"""Caps of FDs, memory, age and jobs: what is due when, and the pipe leak at `ulimit -n 128` from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from worker_rig import AMI, LIMIT_S, environment, job, traps

from amidiag.soak.antenna import AntennaServer

NOFILE = 128
# recipes/issue-145-active.toml, with two loader processes: four FDs are lost with each loader.
LEAKS = {
    "AMI_NUM_WORKERS": 2,
    "AMI_ANTENNA_API_BATCH_SIZE": 4,
    "AMI_ANTENNA_API_DATALOADER_LIFETIME": "job",
    "AMI_AVOID_TORCH_ATEXIT_LEAK": "false",
    "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": "true",
    "AMI_ANTENNA_API_DATALOADER_PERSISTENT_WORKERS": "true",
    "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR": 2,
}


class Supervised:
    """A worker with the pipe leak, started again as a supervisor does, until it ends with anything but 75."""

    def __init__(self, server: AntennaServer, directory: Path, **settings: object) -> None:
        self.codes: list[int] = []
        self.said: list[str] = []
        faults = ["--arm", "emulated-accelerator", "--arm", "torch-atexit-per-loader"]
        self._command = [
            *(sys.executable, "-m", "amidiag.soak.faults.launcher", *faults),
            *("--report", str(directory / "faults.json"), "--", str(AMI), "worker", "run"),
        ]
        self._environment = environment(directory, server, **LEAKS | settings)
        self._directory = directory

    def run(self, *words: str) -> None:
        while not self.codes or self.codes[-1] == 75:
            process = subprocess.run(
                ["prlimit", f"--nofile={NOFILE}:{NOFILE}", *self._command, *words],
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            self.codes.append(process.returncode)
            self.said.append(process.stderr)
            assert len(self.codes) < 6, process.stderr


def test_the_pipe_leak_is_recycled_before_emfile_and_nothing_is_lost(
    server: AntennaServer, tmp_path: Path
) -> None:
    # In the long ones the cap is passed between two batches, too.
    sizes = [2, 10, 3] * 9
    for size in sizes:
        server.add_job(job(*traps(size)))
    worker = Supervised(server, tmp_path)
    worker.run("--max-polls", "40")
    assert set(worker.codes[:-1]) == {75}
    assert worker.codes[-1] == 0
    for said in worker.said[:-1]:
        (why,) = (line for line in said.splitlines() if "drained, to be replaced" in line)
        assert re.search(r"10[3-9] of 128 FDs \(8\d %, at most 80 %\)", why), why
        assert why.endswith(": AMI_WORKER_MAX_FDS_PERCENT")
    assert not any("Too many open files" in said for said in worker.said)
    state = server.state()
    # Work in hand was finished each time: none had to be handed out again.
    assert (state.results, state.errors, state.redelivered, state.answered_twice) == (sum(sizes), 0, 0, 0)


def test_without_recycling_the_worker_ends_within_three_polls_of_the_first_emfile_and_says_so(
    server: AntennaServer, tmp_path: Path
) -> None:
    for _ in range(30):
        server.add_job(job(*traps(2)))
    worker = Supervised(server, tmp_path, AMI_WORKER_MAX_FDS_PERCENT=0, AMI_NUM_WORKERS=4)
    worker.run()
    assert worker.codes == [70]
    lines = worker.said[0].splitlines()
    (last,) = (line for line in lines if "worker.service: EMFILE: Too many open files" in line)
    assert "(3 in a row)" in last
    first = next(at for at, line in enumerate(lines) if "EMFILE" in line)
    visits = [line for line in lines[first:] if re.search(r"worker.loop: job \d+ \(.*images answered", line)]
    assert len(visits) <= 3
    state = server.state()
    assert (state.answered_twice, state.errors, state.lost) == (0, 0, 0)
