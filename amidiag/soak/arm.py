"""One arm of a soak: a worker in lock-step with the embedded server, observed between its polls.

The server holds each `GET /jobs` until the tree has been read. So every observation is taken at the
same point of the worker's cycle, between two polls, and cycles follow each other without waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from amidiag.attach.call_sites import TraceReading
from amidiag.attach.grown import grown, now
from amidiag.attach.status import StatusReader
from amidiag.model import Answered, Certificate, Identity, Observation, Verdict
from amidiag.procfs.errors import ProcessGone
from amidiag.procfs.identity import identify
from amidiag.procfs.observe import observe_tree
from amidiag.series.certificate import certify
from amidiag.series.recording import Recording, unit_of
from amidiag.series.sequential import Sequential
from amidiag.series.trough import judge
from amidiag.soak.answers import check_answers
from amidiag.soak.antenna import AntennaServer, AntennaServerError, JobSpec, ServerConfig
from amidiag.soak.plan import PlannedJob, plan
from amidiag.soak.program import Program, ProgramError
from amidiag.soak.recipe import Arm, Recipe

TOKEN = "soak"
# The first poll waits for the worker to import torch; a cycle in between may build a forkserver loader.
_START_LIMIT_S = 180.0
_CYCLE_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an arm is: `cycle` of at most `cycles`, and the resource that decides when it stops."""

    arm: str
    cycle: int
    cycles: int
    resource: str
    value: float
    phase: str


Listener = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class ArmOutcome:
    """What one arm showed. `seconds` is its length without start-up and warm-up.

    `settings` is what the worker publishes of itself, empty where it has no status page. `trace` is what
    its tree has made since the first observation and not closed at the last; None if it was not traced.
    """

    arm: Arm
    recording: Recording
    verdict: Verdict
    certificate: Certificate | None
    answers: Answered
    faults: Mapping[str, str]
    settings: Mapping[str, object]
    seconds: float
    exit_status: int
    trace: TraceReading | None

    @property
    def certified(self) -> bool:
        """Whether the certificate that the recipe asks for was reached."""
        return self.arm.certified_by(self.certificate)

    @property
    def lacks_certificate(self) -> bool:
        """Whether the arm is there to reach a certificate, and has not."""
        return self.arm.stop in ("certificate", "end") and not self.certified


def run_arm(
    recipe: Recipe, arm: Arm, seed: int, directory: Path, listener: Listener, *, traced: bool = True
) -> ArmOutcome:
    """Start server and worker, drive the cycles, judge, end both. Unless `traced` is off, findings get call sites.

    Raises:
        ProgramError: the worker could not be started, ended by itself, or stopped polling; the server failed.
    """
    config = ServerConfig(
        token=TOKEN,
        visibility_timeout_s=recipe.server.visibility_timeout_s,
        max_deliver=recipe.server.max_deliver,
        seed=seed,
    )
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return _run(recipe, arm, seed, directory, listener, config, traced=traced)
    except AntennaServerError as e:
        raise ProgramError(f"the embedded Antenna server failed: {e}") from e


def _run(
    recipe: Recipe,
    arm: Arm,
    seed: int,
    directory: Path,
    listener: Listener,
    config: ServerConfig,
    *,
    traced: bool,
) -> ArmOutcome:
    with AntennaServer(config) as server:
        server.hold_polls()
        settings = {
            **arm.settings,
            "AMI_ANTENNA_API_BASE_URL": server.base_url,
            "AMI_ANTENNA_API_AUTH_TOKEN": TOKEN,
        }
        with Program(recipe.command, settings, arm.faults, directory, traced=traced) as program:
            drive = _Drive(recipe, arm, server, program, listener)
            drive.run(plan(recipe.load, seed))
            trace = drive.grown()
            server.list_jobs([])
            server.free_polls()
            status = program.stop()
        return ArmOutcome(
            arm=arm,
            recording=drive.recording,
            verdict=drive.verdict(),
            certificate=drive.certificate(),
            answers=check_answers(server, drive.job_ids),
            faults=program.faults,
            settings=drive.worker_settings(),
            seconds=drive.seconds,
            exit_status=status,
            trace=trace,
        )


class _Drive:
    """The lock-step loop of one arm, with what it gathers."""

    def __init__(
        self, recipe: Recipe, arm: Arm, server: AntennaServer, program: Program, listener: Listener
    ) -> None:
        self.load = recipe.load
        self.arm = arm
        self.server = server
        self.program = program
        self.listener = listener
        self.identity: Identity | None = None
        self.status = StatusReader()
        self.recording = Recording(timed=False)
        self.sequential = Sequential(unit=unit_of(arm.resource), tolerance=arm.tolerance)
        self.job_ids: list[int] = []
        self._began = now()
        self._empty_jobs: dict[tuple[str, int], int] = {}

    @property
    def seconds(self) -> float:
        """From the first to the last observation."""
        times = self.recording.times
        return times[-1] - times[0] if times else 0.0

    def worker_settings(self) -> Mapping[str, object]:
        """What the worker said of its own settings at the last observation."""
        last = self.recording.last
        status = last.processes[0].status if last else None
        return dict(status.settings) if status else {}

    def grown(self) -> TraceReading | None:
        """What the worker has made since the first observation and holds now, if it is traced."""
        return grown(self.identity, self._began) if self.identity is not None else None

    def verdict(self) -> Verdict:
        """On the arm's resource: of the last look, or of the only one where all cycles are run."""
        if self.arm.stop != "end":
            return self.sequential.verdict()
        values = self.recording.values(self.arm.resource)
        return judge(values, unit_of(self.arm.resource), tolerance=self.arm.tolerance)

    def certificate(self) -> Certificate | None:
        """What the arm's resource allows to be certified so far."""
        return certify(self.recording.values(self.arm.resource), unit=unit_of(self.arm.resource))

    def run(self, cycles: Iterable[tuple[PlannedJob, ...]]) -> None:
        """Drive the planned cycles until the arm's question is decided or they are used up."""
        total = self.load.cycles
        for number, jobs in enumerate(cycles):
            self._wait_for_poll(_START_LIMIT_S if number == 0 else _CYCLE_LIMIT_S)
            done = number - self.load.warm_up
            if done >= 0 and self._observe(done, total):
                return
            if done < 0:
                self.listener(
                    Progress(self.arm.name, number, self.load.warm_up, self.arm.resource, 0.0, "warm-up")
                )
            self.server.release_poll(jobs=self._list(jobs))
        self._wait_for_poll(_CYCLE_LIMIT_S)
        self._observe(total, total)

    def _observe(self, done: int, total: int) -> bool:
        observation = self._read()
        if self.recording.last is None:
            self._began = now()
        self.recording.add(observation, {"polls": float(done)})
        value = self.recording.values(self.arm.resource)[-1]
        self.sequential.add(value)
        self.listener(Progress(self.arm.name, done, total, self.arm.resource, value, "cycles"))
        return self._decided()

    def _read(self) -> Observation:
        try:
            if self.identity is None:
                self.identity = identify(self.program.pid)
            return observe_tree(self.identity, status_reader=self.status)
        except ProcessGone:
            raise self._ended() from None

    def _ended(self) -> ProgramError:
        return self._failure(f"ended by itself with exit status {self.program.exit_status}")

    def _failure(self, what: str) -> ProgramError:
        said = self.program.last_words() or "nothing"
        return ProgramError(
            f"the worker of arm {self.arm.name!r} {what}; the last that it said: {said!r} (--keep DIR keeps its log)"
        )

    def _decided(self) -> bool:
        if self.arm.stop in ("load", "end"):
            return False
        verdict = self.sequential.look()
        if verdict is None or self.arm.stop != "certificate" or verdict.kind == "leak":
            return verdict is not None
        return self.arm.certified_by(self.certificate())

    def _wait_for_poll(self, limit: float) -> None:
        deadline = time.monotonic() + limit
        while not self.server.wait_poll(timeout=0.5):
            if self.program.exit_status is not None:
                raise self._ended()
            if time.monotonic() > deadline:
                raise self._failure(f"did not poll for {limit:.0f} s")

    def _list(self, jobs: tuple[PlannedJob, ...]) -> list[int]:
        listed = []
        for place, job in enumerate(jobs):
            if job.images:
                listed.append(self.server.add_job(JobSpec(pipeline=job.pipeline, images=job.images)))
                self.job_ids.append(listed[-1])
                continue
            # An empty job stays listed for ever: that is issue 145's state. One per place is enough.
            key = (job.pipeline, place)
            if key not in self._empty_jobs:
                spec = JobSpec(pipeline=job.pipeline, images=(), list_always=True)
                self._empty_jobs[key] = self.server.add_job(spec)
            listed.append(self._empty_jobs[key])
        return listed
