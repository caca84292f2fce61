"""A compressed day: jobs without a pause, and something bad every few seconds, from a seeded plan."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from amidiag.soak.antenna import AntennaServer, JobSpec, ServerConfig, TaskStory
from amidiag.soak.chaos import private_shm, rounds
from amidiag.soak.chaos.events import EVENTS, Group
from amidiag.soak.chaos.outcome import Outcome, outcome
from amidiag.soak.chaos.scene import Scene
from amidiag.soak.chaos.supervised import Supervised
from amidiag.soak.faults.on_demand import TRIGGERS
from amidiag.soak.program import ProgramError
from amidiag.soak.traps import BROKEN_KINDS, TrapSpec

PIPELINES = ("moth_binary", "trap_species")

_SHM_BYTES = 256 * 1024**2
_BROKEN_SHARE = 0.05
_SIZES = ((640, 480), (800, 600))
_DISTINCT = 40
_LOOK_EVERY_S = 0.25
# All that may still have to run out after the last event: the watchdog, a new process, two deliveries.
_END_LIMIT_S = rounds.WATCHDOG_S + 120.0 + 2 * rounds.VISIBILITY_S


@dataclass(frozen=True)
class Plan:
    """What is to happen: `events` are (seconds after the first answer, name). `stretch`: see `Scene`."""

    seed: int
    context: str
    seconds: float
    images_per_job: int
    events: tuple[tuple[float, str], ...]
    stretch: float = 1.0


@dataclass(frozen=True)
class Happened:
    """An event, as it was met. Times are monotonic."""

    name: str
    began: float
    ended: float


@dataclass
class Day:
    """What became of it all. `ends` are the exit statuses of the worker's lives, the last one included.

    `explained` are lost images each of whose deliveries has an excuse; `unexplained` are the stories of the
    others, with what happened meanwhile. `problems`: per job, how many images had what happen to them that must not.
    `left`: what was still there when it was over, and should not be.
    """

    plan: Plan
    happened: list[Happened] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    total: Outcome = field(default_factory=Outcome)
    jobs: int = 0
    differing: int = 0
    explained: int = 0
    unexplained: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    longest_silence_s: float = 0.0
    seconds: float = 0.0
    left: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Nothing lost beyond the rules, nothing twice, no error for nothing, nothing left behind."""
        return not (self.unexplained or self.differing or self.total.errors or self.total.open or self.left)


def plan(
    seed: int,
    context: str,
    seconds: float,
    *,
    groups: Collection[Group] = ("loader", "server", "worker"),
    every_s: float = 8.0,
    images_per_job: int = 400,
    stretch: float = 1.0,
) -> Plan:
    """Events at random moments, on average every `every_s` seconds; each kind comes before any comes again."""
    rng = random.Random(f"{seed}/{context}")
    names = [name for name, event in EVENTS.items() if event.group in groups]
    events: list[tuple[float, str]] = []
    deck: list[str] = []
    at = rng.expovariate(1 / every_s)
    while at < seconds:
        if not deck:
            deck = rng.sample(names, len(names))
        events.append((at, deck.pop()))
        at += rng.expovariate(1 / every_s)
    return Plan(seed, context, seconds, images_per_job, tuple(events), stretch)


def run(day: Plan, directory: Path, listener: Callable[[str], None], became: Day | None = None) -> Day:
    """Live through it. `became` is filled with what came of it, also where it ends early by an exception.

    Raises:
        ProgramError: the worker could not be started, or ended so that no supervisor would start it again.
        NoNamespaceError: this host gives it no /dev/shm of its own.
    """
    triggers = directory / "triggers"
    triggers.mkdir(parents=True)
    config = ServerConfig(
        token=rounds.TOKEN,
        visibility_timeout_s=rounds.VISIBILITY_S,
        max_deliver=rounds.MAX_DELIVER,
        seed=day.seed,
    )
    with (
        AntennaServer(config) as server,
        Supervised(
            _settings(day, server.base_url, triggers),
            ("loader-on-demand",),
            directory,
            within=private_shm.within(_SHM_BYTES),
        ) as worker,
    ):
        rng = random.Random(f"{day.seed}/{day.context}/acts")
        with Scene(server, worker, triggers, rng, day.stretch) as scene:
            return _Course(became or Day(day), scene, listener).run()


def _settings(day: Plan, base_url: str, triggers: Path) -> dict[str, str]:
    """The worker's defaults, but for batches of 8: then there is more to strike at."""
    return {
        "AMI_ANTENNA_API_BASE_URL": base_url,
        "AMI_ANTENNA_API_AUTH_TOKEN": rounds.TOKEN,
        "AMI_ANTENNA_API_BATCH_SIZE": "8",
        "AMI_ANTENNA_API_DATALOADER_MP_CONTEXT": day.context,
        "AMI_ANTENNA_API_DATALOADER_PIN_MEMORY": "false",
        "AMI_ANTENNA_IDLE_SLEEP_SECONDS": "0.5",
        "AMI_VISIBILITY_TIMEOUT_S": f"{rounds.VISIBILITY_S:g}",
        "AMI_PIPELINES": ",".join(PIPELINES),
        TRIGGERS: str(triggers),
    }


class _Course:
    """One day as it runs."""

    def __init__(self, day: Day, scene: Scene, listener: Callable[[str], None]) -> None:
        self._plan = plan = day.plan
        self._scene = scene
        self._say = listener
        self._day = day
        self._images = random.Random(f"{plan.seed}/{plan.context}/images")
        self._jobs: list[int] = []
        self._answered = 0
        self._last_answer = 0.0
        self._looked = 0.0
        self._began = 0.0

    def run(self) -> Day:
        """Until every job is complete, or the time for that is over."""
        try:
            self._live()
            self._end_worker()
        except (KeyboardInterrupt, ProgramError):
            self._count()
            raise
        self._count()
        self._find_fault()
        return self._day

    def _live(self) -> None:
        self._began = time.monotonic()
        self._add_job()
        self._scene.until(rounds.START_LIMIT_S, self._has_answers)
        began = self._began = self._last_answer = time.monotonic()
        again: deque[str] = deque()
        for at, name in self._plan.events:
            self._work_until(began + at)
            again.append(name)
            # One whose moment did not come is tried once more with each further event.
            for _ in range(min(2, len(again))):
                tried = again.popleft()
                if not self._happen(tried):
                    again.append(tried)
        self._work_until(began + self._plan.seconds)
        self._scene.settle()
        self._scene.server.clear_faults()
        self._say("no more jobs; waiting for what is under way")
        self._scene.until(_END_LIMIT_S, self._all_complete)

    def _add_job(self) -> None:
        pipeline = PIPELINES[len(self._jobs) % len(PIPELINES)]
        images = tuple(_image(self._images) for _ in range(self._plan.images_per_job))
        self._jobs.append(self._scene.server.add_job(JobSpec(pipeline, images)))

    def _work_until(self, end: float) -> None:
        while time.monotonic() < end:
            if self._look() and self._all_complete():
                self._add_job()
            self._scene.tick()

    def _happen(self, name: str) -> bool:
        """Whether its moment came."""
        lasts = EVENTS[name].act(self._scene)
        now = time.monotonic()
        if lasts is None:
            self._day.missed[name] += 1
        else:
            self._day.happened.append(Happened(name, now, now + lasts))
        self._say(
            f"{'missed: ' if lasts is None else ''}{name}; job {len(self._jobs)}, {self._answered} images answered, "
            f"life {len(self._scene.worker.lives)}"
        )
        return lasts is not None

    def _look(self) -> bool:
        """See how far it is, not too often. Whether it was looked."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY_S:
            return False
        self._looked = now
        answered = self._scene.server.state([]).answered
        if answered > self._answered:
            if self._answered:
                self._day.longest_silence_s = max(self._day.longest_silence_s, now - self._last_answer)
            self._answered, self._last_answer = answered, now
        return True

    def _has_answers(self) -> bool:
        self._look()
        return self._answered > 0

    def _all_complete(self) -> bool:
        self._look()
        state = self._scene.server.state([])
        return state.waiting == 0 and state.reserved == 0

    def _end_worker(self) -> None:
        worker = self._scene.worker
        self._day.seconds = time.monotonic() - self._began
        if not worker.alive:
            self._scene.until(rounds.START_LIMIT_S, lambda: worker.alive)
        worker.stop()

    def _count(self) -> None:
        """What has become of the worker and of every image, so far."""
        day, server = self._day, self._scene.server
        day.seconds = day.seconds or time.monotonic() - self._began
        day.ends = [life.status for life in self._scene.worker.lives if life.status is not None]
        day.jobs = len(self._jobs)
        for job in self._jobs:
            became = outcome(server, job)
            day.total += became
            stories = server.stories(job)
            day.differing += sum(story.differing for story in stories)
            unexplained = len(day.unexplained)
            for story in stories:
                if story.fate == "lost":
                    self._explain(job, story)
            problems = {
                "lost, which the queue's own rules do not explain": len(day.unexplained) - unexplained,
                "answered twice, differently": sum(story.differing > 0 for story in stories),
                f"intact and answered as an error ({'; '.join(became.said)})": became.errors,
                "still open at the end": became.open,
            }
            day.problems += [
                f"job {job}: {n} image{'s' if n > 1 else ''} {what}" for what, n in problems.items() if n
            ]

    def _find_fault(self) -> None:
        """What is not as it should be though nothing interrupted the day."""
        day, worker = self._day, self._scene.worker
        if day.ends[-1] != 0:
            ended = rounds.how_it_ended(day.ends[-1])
            day.left.append(f"the worker ended with {ended} when it was told to drain")
        day.left += [f"results still in the spool: {path.name}" for path in worker.spool.rglob("*.json")]
        if not day.good:
            day.log = worker.log_since({})

    def _explain(self, job: int, story: TaskStory) -> None:
        excuses = [h for h in self._day.happened if EVENTS[h.name].excuses]
        if all(d.unheard or _during(d.at, d.until, excuses) for d in story.deliveries):
            self._day.explained += 1
            return
        told = "; ".join(
            f"handed out at {d.at:.1f} until {d.until or 0:.1f}{', unheard' if d.unheard else ''}, meanwhile "
            f"{', '.join(h.name for h in _during(d.at, d.until, self._day.happened)) or 'nothing'}"
            for d in story.deliveries
        )
        self._day.unexplained.append(f"job {job}, image {story.image_id}: {told}")


def _during(at: float, until: float | None, happened: Sequence[Happened]) -> list[Happened]:
    return [h for h in happened if h.ended >= at and (until is None or h.began <= until)]


def _image(rng: random.Random) -> TrapSpec:
    width, height = rng.choice(_SIZES)
    broken = rng.choice(BROKEN_KINDS) if rng.random() < _BROKEN_SHARE else None
    return TrapSpec(seed=rng.randrange(_DISTINCT), width=width, height=height, broken=broken, insects=(0, 8))


def ends_in_words(ends: Sequence[int]) -> Mapping[str, int]:
    """How often the worker ended in which way."""
    return Counter(rounds.how_it_ended(status) for status in ends)
