"""One worker, many moments: it works on job after job and is struck once in each."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig
from amidiag.soak.chaos import private_shm
from amidiag.soak.chaos.outcome import Outcome, outcome
from amidiag.soak.chaos.scene import Scene
from amidiag.soak.chaos.strikes import STRIKES
from amidiag.soak.chaos.stuck import stacks
from amidiag.soak.chaos.supervised import Supervised
from amidiag.soak.faults.on_demand import TRIGGERS
from amidiag.soak.traps import TrapSpec

TOKEN = "chaos"
PIPELINE = "moth_binary"
VISIBILITY_S = 30.0
MAX_DELIVER = 2
WATCHDOG_S = 120.0
"""What AMI_WORKER_WATCHDOG_S = 0 comes to with this visibility time."""

_SHM_BYTES = 256 * 1024**2
_DISTINCT = 12
START_LIMIT_S = 180.0
# The watchdog's time, a new process, and both deliveries' visibility time.
_JOB_LIMIT_S = WATCHDOG_S + 60.0 + MAX_DELIVER * VISIBILITY_S
_TRIES = 4
# Of an undisturbed job: later than this everything may be loaded already, and a strike meets nothing.
_LATEST = 0.6
_HANGS = 2
_TELLING = ("WARNING", "ERROR", "CRITICAL", "Error", "rror:", "hang")


@dataclass(frozen=True)
class Cell:
    """The worker that is struck. `images` per job; `pinned` with the emulated accelerator."""

    context: str
    pinned: bool = False
    loaders: int = 1
    images: int = 64

    @property
    def words(self) -> str:
        """For people: the start method and what is unusual."""
        return self.context + (", pinned" if self.pinned else "")


@dataclass(frozen=True)
class Moment:
    """One strike by `fault` in the job `job`. `at`: where in an undisturbed job, from 0 to 1. Times in seconds.

    `recovery_s` is the longest time without an answer from the strike to the end of the job, None where the
    strike's moment never came; `whole_s` from the strike to the end. `restarts`: the exit statuses of the lives
    that ended meanwhile. `log`: what the worker said, of a failure.
    """

    fault: str
    job: int
    at: float
    struck: bool
    recovery_s: float | None
    whole_s: float | None
    outcome: Outcome
    restarts: tuple[int, ...]
    hung: bool
    log: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Nothing lost, nothing twice, no error for nothing, and it did not hang."""
        return self.outcome.good and not self.hung

    @property
    def words(self) -> str:
        """For people: where it struck, what it cost, what became of the images and of the worker."""
        if self.struck:
            recovery = (
                "no answer any more" if self.recovery_s is None else f"recovered in {self.recovery_s:.2f} s"
            )
            said = f"struck at {self.at:.0%}, {recovery}"
        else:
            said = "its moment did not come"
        ends = "".join(f"; the worker ended with {how_it_ended(status)}" for status in self.restarts)
        hung = "; IT HUNG" if self.hung else ""
        return f"{said}; job {self.job}, {self.outcome.words}{ends}{hung}"


def how_it_ended(status: int) -> str:
    """An exit status in words: negative for a signal."""
    return f"signal {-status}" if status < 0 else f"code {status}"


Listener = Callable[[Moment], None]


def settings_of(cell: Cell, base_url: str, triggers: Path) -> dict[str, str]:
    """The worker's settings: its defaults, but for small batches, so that there are many to strike at."""
    return {
        "AMI_ANTENNA_API_BASE_URL": base_url,
        "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN,
        "AMI_ANTENNA_API_BATCH_SIZE": "4",
        "AMI_ANTENNA_API_DATALOADER_PREFETCH_FACTOR": "4",
        "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": cell.context,
        "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": str(cell.pinned).lower(),
        "AMI_NUM_WORKERS": str(cell.loaders),
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS": "0.2",
        "AMI_VISIBILITY_TIMEOUT_S": f"{VISIBILITY_S:g}",
        "AMI_PIPELINES": PIPELINE,
        TRIGGERS: str(triggers),
    }


def faults_of(cell: Cell) -> tuple[str, ...]:
    """What the launcher arms."""
    return ("loader-on-demand", "emulated-accelerator") if cell.pinned else ("loader-on-demand",)


def images(count: int, rng: random.Random) -> tuple[TrapSpec, ...]:
    """Small intact images, of few kinds, so that drawing them costs no time in the middle of a job."""
    return tuple(
        TrapSpec(seed=rng.randrange(_DISTINCT), width=640, height=480, insects=(0, 6)) for _ in range(count)
    )


def run(cell: Cell, faults: Sequence[str], seed: int, directory: Path, listener: Listener) -> list[Moment]:
    """Strike by one fault after the other. The moments follow from seed, faults and cell; what they meet does not.

    Ends early where it hung too often.

    Raises:
        ProgramError: the worker could not be started, or ended so that no supervisor would start it again.
        TimeoutError: it does not finish a job to which nothing happens.
        NoNamespaceError: this host gives it no /dev/shm of its own.
    """
    directory.mkdir(parents=True, exist_ok=True)
    triggers = directory / "triggers"
    triggers.mkdir()
    rng = random.Random(f"{seed}/{faults[0]}/{cell.words}")
    config = ServerConfig(token=TOKEN, visibility_timeout_s=VISIBILITY_S, max_deliver=MAX_DELIVER, seed=seed)
    with (
        AntennaServer(config) as server,
        Supervised(
            settings_of(cell, server.base_url, triggers),
            faults_of(cell),
            directory,
            within=private_shm.within(_SHM_BYTES),
        ) as worker,
        Scene(server, worker, triggers, rng) as scene,
    ):
        usual = _usual(scene, cell)
        done: list[Moment] = []
        for fault in faults:
            moment = _moment(scene, cell, fault, usual)
            done.append(moment)
            listener(moment)
            if sum(moment.hung for moment in done) >= _HANGS:
                break
        return done


def _usual(scene: Scene, cell: Cell) -> float:
    """How long a job takes that nothing happens to; the first one loads the models."""
    usual = 0.0
    for limit in (START_LIMIT_S, _JOB_LIMIT_S):
        job = scene.server.add_job(JobSpec(PIPELINE, images(cell.images, scene.rng)))
        began = time.monotonic()
        if not scene.until(limit, partial(_complete, scene, job)):
            raise TimeoutError(
                f"an undisturbed job was not finished in {limit:.0f} s: {scene.worker.lives[-1].program.last_words()}"
            )
        usual = time.monotonic() - began
    return usual


def _complete(scene: Scene, job: int) -> bool:
    return scene.server.state([job]).jobs[job].complete


def _moment(scene: Scene, cell: Cell, fault: str, usual: float) -> Moment:
    strike = STRIKES[fault]
    at = scene.rng.random()
    mark, lives = scene.worker.mark_log(), len(scene.worker.lives)
    for attempt in range(_TRIES):
        struck: float | None = None
        if strike.between:
            _between_jobs(scene, cell)
            scene.wait(at)
            struck = strike.aim(scene, 5.0)
        job = scene.server.add_job(JobSpec(PIPELINE, images(cell.images, scene.rng)))
        if not strike.between:
            # Where the moment did not come it is tried earlier in the next job.
            scene.wait(_LATEST * usual * at / 2**attempt)
            struck = strike.aim(scene, 2 * usual)
        recovery, whole, hung = _watch(scene, job, struck)
        scene.settle()
        became = outcome(scene.server, job)
        if struck is not None or hung or not became.good:
            break
    restarts = tuple(life.status for life in scene.worker.lives[lives - 1 :] if life.status is not None)
    moment = Moment(fault, job, at, struck is not None, recovery, whole, became, restarts, hung)
    if moment.good:
        return moment
    log = [line for line in scene.worker.log_since(mark) if any(word in line for word in _TELLING)][-30:]
    if hung:
        log += stacks(scene.worker.tree())
        _give_up(scene)
    return replace(moment, log=tuple(log))


def _between_jobs(scene: Scene, cell: Cell) -> None:
    """No job, but a loader: the last one may have died with the strike before."""
    if scene.a_loader() is None:
        job = scene.server.add_job(JobSpec(PIPELINE, images(2, scene.rng)))
        scene.until(_JOB_LIMIT_S, lambda: _complete(scene, job))


def _watch(scene: Scene, job: int, struck: float | None) -> tuple[float | None, float | None, bool]:
    """Until the job is complete: the longest silence since the strike, the time since it, whether it hung."""
    end = time.monotonic() + _JOB_LIMIT_S
    last, silence = struck or 0.0, 0.0
    answered = scene.server.state([job]).jobs[job].answered
    while time.monotonic() < end:
        scene.tick()
        state = scene.server.state([job]).jobs[job]
        now = time.monotonic()
        if state.answered > answered:
            silence, last, answered = max(silence, now - last), now, state.answered
        if state.complete:
            return (silence, now - struck, False) if struck else (None, None, False)
    return (None, None, True)


def _give_up(scene: Scene) -> None:
    """A worker that hangs is killed, so that the next moment finds one that works."""
    os.kill(scene.worker.pid, signal.SIGKILL)
    scene.until(START_LIMIT_S, lambda: not scene.worker.alive)
