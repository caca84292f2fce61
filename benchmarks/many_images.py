"""914 JPEGs of 24 MB through the real worker in 4 GiB: all answered, none lost.

    python benchmarks/many_images.py --images 40     a look at the speed
    python benchmarks/many_images.py                 all of them

The worker (`ami worker run`, its settings left as they are unless `--set NAME=VALUE` says otherwise) works on one job
of the embedded Antenna server, inside a memory cgroup of 4 GiB. Where none can be made, a sampler outside ends the
run as soon as the tree holds more than that. Exit code 1 if a task was lost, not answered, or answered as an error
or twice, or if memory was not enough.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from memory_cgroup import MemoryCgroup, NoCgroupError, memory_cgroup
from PIL import Image

from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.soak.antenna import Answer, AntennaServer, ImageSpec, JobSpec, ServerConfig, ServerState
from amidiag.soak.program import Program
from amidiag.soak.traps import TrapSpec, render

_LIMIT = 4 << 30
_WIDTH, _HEIGHT = 8000, 6000
_MEGABYTE = 1_000_000
_WANTED = 24 * _MEGABYTE
_DISTINCT = 4
_TOKEN = "many"
_STALLED_S = 180.0
_SAMPLE_S = 0.25
_AMI = Path(sys.executable).parent / "ami"
_ENTER = 'echo $$ > "$0" && exec "$@"'


def trap(seed: int) -> TrapSpec:
    """What is in picture `seed`, before it is enlarged."""
    return TrapSpec(seed=seed, width=_WIDTH // 4, height=_HEIGHT // 4)


def large_jpeg(seed: int) -> bytes:
    """A trap picture of 48 megapixels whose grain makes its file 24 MB."""
    small = Image.open(io.BytesIO(render(trap(seed)).data)).convert("RGB")
    levels = np.asarray(small.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    rng = np.random.default_rng(seed)
    grain = rng.integers(-12, 13, (_HEIGHT, _WIDTH, 1), dtype=np.int16)
    picture = Image.fromarray(np.clip(levels + grain, 0, 255).astype(np.uint8))
    best = b""
    for quality in range(80, 99, 2):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if abs(file.tell() - _WANTED) < abs(len(best) - _WANTED):
            best = file.getvalue()
    return best


class Watch:
    """Samples what a tree holds: anonymous memory of its processes, and shared memory counted once."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._identity = identify(pid)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            try:
                seen = observe_tree(self._identity, peers=False)
            except ProcessGone:
                return
            anonymous = sum(process.memory.anonymous or 0 for process in seen.processes)
            self.peak = max(self.peak, anonymous + (seen.tree.shm_unique or 0))

    def end(self) -> None:
        """No more samples."""
        self._stop.set()
        self._thread.join()


@dataclass(frozen=True)
class Outcome:
    """Of one run. `peak`: the most that was sampled, in bytes; `wrong`: why it was ended early, if it was."""

    state: ServerState
    answers: list[Answer]
    minutes: float
    peak: int
    status: int
    wrong: str

    @property
    def twice(self) -> int:
        """Tasks that were answered more than once."""
        return sum(answer.times > 1 for answer in self.answers)

    @property
    def good(self) -> bool:
        """Whether every task was answered once, with a result, and the worker ended as told."""
        state = self.state
        bad = state.errors or state.lost or self.twice or self.status or self.wrong
        return state.answered == len(self.answers) and not bad


def wait(server: AntennaServer, program: Program, watch: Watch, total: int, *, sampled: bool) -> str:
    """Until every task is answered or lost. Returns what went wrong, if anything did."""
    last, progress = 0, time.monotonic()
    while True:
        time.sleep(1.0)
        state = server.state([])
        done = state.answered + state.lost
        if done == total:
            return ""
        if program.exit_status is not None:
            return f"the worker ended with {program.exit_status}"
        if sampled and watch.peak > _LIMIT:
            return "more than 4 GiB were in use"
        if done != last:
            if done // 50 != last // 50:
                print(f"  {done} of {total}, {watch.peak >> 20} MiB at most", file=sys.stderr, flush=True)
            last, progress = done, time.monotonic()
        elif time.monotonic() - progress > _STALLED_S:
            return f"no answer for {_STALLED_S:.0f} s"


def pictures(directory: Path) -> list[Path]:
    """The distinct files."""
    files = [directory / f"{seed}.jpg" for seed in range(_DISTINCT)]
    for seed, file in enumerate(files):
        file.write_bytes(large_jpeg(seed))
    return files


def run(images: int, settings: dict[str, str], directory: Path, cgroup: MemoryCgroup | None) -> Outcome:
    """Let the worker work through the images."""
    files = pictures(directory)
    sizes = ", ".join(f"{file.stat().st_size / _MEGABYTE:.1f}" for file in files)
    print(f"{images} images of {_WIDTH}×{_HEIGHT}, {sizes} MB", flush=True)
    specs = tuple(ImageSpec(trap(n % _DISTINCT), path=str(files[n % _DISTINCT])) for n in range(images))
    enter = () if cgroup is None else ("/bin/sh", "-c", _ENTER, str(cgroup.members))
    with AntennaServer(ServerConfig(token=_TOKEN)) as server:
        server.hold_polls()
        job = server.add_job(JobSpec("moth_binary", specs))
        own = {"AMI_ANTENNA_API_BASE_URL": server.base_url, "AMI_ANTENNA_API_AUTH_TOKEN": _TOKEN}
        with Program((*enter, str(_AMI), "worker", "run"), own | settings, (), directory) as program:
            if not server.wait_poll(timeout=120):
                sys.exit(f"the worker does not poll: {program.last_words()}")
            watch = Watch(program.pid)
            started = time.monotonic()
            server.free_polls()
            wrong = wait(server, program, watch, images, sampled=cgroup is None)
            minutes = (time.monotonic() - started) / 60
            watch.end()
            status = program.stop()
            if wrong:
                print(f"{wrong}; the worker's last lines:\n{tail(program.log)}")
        return Outcome(server.state([]), server.answers(job), minutes, watch.peak, status, wrong)


def report(outcome: Outcome, cgroup: MemoryCgroup | None) -> None:
    """What became of the tasks, and what it took."""
    state = outcome.state
    found = sum(len((answer.result or {}).get("detections", ())) for answer in outcome.answers)
    print(
        f"answered {state.answered} of {len(outcome.answers)} ({state.errors} as errors, {outcome.twice} twice), lost "
        f"{state.lost}, redelivered {state.redelivered}, late {state.late}; {found} detections; "
        f"{outcome.minutes:.1f} minutes; the worker ended with {outcome.status}"
    )
    print(f"peak of the tree, sampled: {outcome.peak / 2**20:.0f} MiB of anonymous and shared memory")
    if cgroup is not None:
        peak = "not told by this kernel" if cgroup.peak is None else f"{cgroup.peak / 2**20:.0f} MiB"
        print(
            f"peak of the cgroup (version {cgroup.version}, limit {_LIMIT >> 20} MiB), page cache included: {peak}; "
            f"killed: {cgroup.kills}"
        )


def tail(log: Path) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def main() -> None:
    """Run it; exit code 1 where something was lost or memory was not enough."""
    parser = argparse.ArgumentParser(description="Many large images through the worker in 4 GiB.")
    parser.add_argument("--images", type=int, default=914)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the worker"
    )
    parser.add_argument("--keep", type=Path, help="keep the worker's log in this directory")
    options = parser.parse_args()
    settings = dict(word.split("=", 1) for word in options.set)
    with ExitStack() as stack:
        directory = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="amidiag-many-"))
        )
        directory.mkdir(parents=True, exist_ok=True)
        try:
            cgroup = stack.enter_context(memory_cgroup(_LIMIT))
        except NoCgroupError as e:
            print(f"no memory cgroup can be made ({e}): a sampler outside watches the limit instead")
            cgroup = None
        outcome = run(options.images, settings, directory, cgroup)
        report(outcome, cgroup)
        enough = outcome.peak <= _LIMIT and (cgroup is None or cgroup.kills == 0)
    sys.exit(0 if outcome.good and enough else 1)


if __name__ == "__main__":
    main()
