"""What a job's next batches look like, learnt from those that came.

Bytes in flight are bounded by construction: no more than `depth()` batches are asked for, each with no more
than `batch_bytes()` bytes of pixels, and the loader process defers what does not fit. So a larger image that
comes later needs no forecast: it makes the batch shorter at once, and the plan follows.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

from worker.guard.budget import Budget
from worker.guard.peak import private_memory
from worker.guard.plan import Learnt, Limits, Plan
from worker.guard.throttle import Throttle
from worker.guard.words import size_in_words
from worker.ingest.batch import Batch
from worker.settings import WorkerSettings

JOBS_KEPT: Final = 16


class Tuning:
    """What all jobs of this worker share: the budget, what is held back of it, and what earlier jobs taught.

    `pinned`: whether batches are copied into page-locked memory; None asks the settings and torch.
    """

    def __init__(self, settings: WorkerSettings, budget: Budget, *, pinned: bool | None = None) -> None:
        self._settings = settings
        self._budget = budget
        self._pinned = _pins(settings) if pinned is None else pinned
        self._throttle = Throttle(budget.bytes) if budget.bytes is not None else None
        self._of_jobs: OrderedDict[int, Learnt] = OrderedDict()
        self._of_slugs: dict[str, Learnt] = {}

    @property
    def held_back(self) -> int:
        """Bytes of the budget that are held back now, since more was used than planned."""
        return self._throttle.held_back if self._throttle is not None else 0

    def for_job(self, job_id: int, slug: str) -> JobTuner:
        """The tuner of a job, which begins with what is known of it, else of the last job of its pipeline."""
        learnt = self._of_jobs.pop(job_id, None)
        if learnt is None:
            earlier = self._of_slugs.get(slug)
            learnt = earlier.copy() if earlier is not None else Learnt()
        self._of_jobs[job_id] = self._of_slugs[slug] = learnt
        if len(self._of_jobs) > JOBS_KEPT:
            self._of_jobs.popitem(last=False)
        own = private_memory() if self._budget.bytes is not None else 0
        limits = Limits(self._settings, self._budget, pinned=self._pinned, own=own)
        return JobTuner(limits, learnt, self._throttle)


class JobTuner:
    """Decides for one job. Used by the main thread.

    Batches that are on their way were allowed more bytes each if fewer of them were to be in flight. So before
    there may be more of them, new ones get the smaller share, until the old ones have come.
    """

    def __init__(self, limits: Limits, learnt: Learnt, throttle: Throttle | None) -> None:
        self._limits = limits
        self._learnt = learnt
        self._throttle = throttle
        first = self._planned()
        self._depth = first.depth
        # Most bytes of a batch that is on its way, and how many have yet to come until it is less.
        self._allowed = first.batch_bytes or 0
        self._to_come = 0

    def batch_size(self) -> int:
        """How many images to reserve next."""
        return self._planned().batch

    def depth(self) -> int:
        """Most batches that may be with the loader; at least 1, at most prefetch × loaders."""
        return self.plan().depth

    def batch_bytes(self) -> int | None:
        """Most bytes of pixels of a batch; None: no limit."""
        return self._planned().batch_bytes

    def plan(self) -> Plan:
        """All three at once."""
        planned = self._planned()
        return Plan(planned.batch, min(self._depth, planned.depth), planned.batch_bytes)

    def arrived(self, batch: Batch, images: int) -> None:
        """Learn from a batch that came, with so many images."""
        self._learnt.seen = True
        self._learnt.sizes.extend(height * width * 3 for height, width in batch.shapes)
        if images and batch.report.file_bytes:
            fetched = images + len(batch.failures) + len(batch.deferred)
            self._learnt.file_bytes = _average(self._learnt.file_bytes, batch.report.file_bytes / fetched)
        self._follow(self._planned())

    def worked(self, images: int, seconds: float) -> None:
        """Learn how long the work on so many images took, wall-clock."""
        if images:
            self._learnt.seconds_per_image = _average(self._learnt.seconds_per_image, seconds / images)

    def throttle(self, usage: int) -> None:
        """Take in what the worker with its loader processes uses now, in bytes (`tree_usage(...).total`)."""
        if self._throttle is not None:
            self._throttle.seen(usage)

    def why(self) -> str:
        """The plan with its reason in one line, for the log."""
        plan, image = self.plan(), self._learnt.image()
        size = f"images of about {size_in_words(image)}" if image else "images of unknown size"
        bound = "no limit" if plan.batch_bytes is None else f"at most {size_in_words(plan.batch_bytes)}"
        room = self._limits.room()
        of = "" if room is None else f", room for {size_in_words(room)} of batches"
        return f"batches of {plan.batch} ({bound} each), {plan.depth} ahead: {size}{of}"

    def _follow(self, planned: Plan) -> None:
        """More batches ahead only when those that were allowed more bytes have come."""
        if planned.depth <= self._depth:
            self._to_come = 0
        elif self._to_come:
            self._to_come -= 1
            if self._to_come:
                return
        elif self._allowed > (planned.batch_bytes or math.inf):
            self._to_come = self._depth + 1
            return
        self._depth, self._allowed = planned.depth, planned.batch_bytes or 0

    def _planned(self) -> Plan:
        return self._limits.plan(self._learnt, self._throttle.held_back if self._throttle is not None else 0)


def _average(before: float | None, now: float) -> float:
    return now if before is None else 0.7 * before + 0.3 * now


def _pins(settings: WorkerSettings) -> bool:
    # Imported here: the loader knows this room too.
    from worker.ingest.loader import pins_memory

    return pins_memory(settings)
