"""How many images make a batch and how many batches are loaded ahead, for each job, within the memory budget.

Bytes in flight are bounded by construction: no more than `depth()` batches are asked for, each with no more
than `batch_bytes()` bytes of pixels, and the loader process defers what does not fit. So a larger image that
comes later needs no forecast: it makes the batch shorter at once, and the plan follows.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

from worker.guard import memory_model
from worker.guard.budget import Budget
from worker.guard.throttle import PLANNED, Throttle
from worker.guard.words import size_in_words
from worker.ingest.batch import Batch
from worker.settings import WorkerSettings

PROBE: Final = 4
"""Images of the first batches of a job of which nothing is known."""
SHM_SHARE: Final = 0.9
"""Share of the room in `/dev/shm` that batches may take: where it is full a loader process ends by SIGBUS."""
RECENT: Final = 256
JOBS_KEPT: Final = 256
IN_TIME: Final = 0.8
"""Share of the visibility time in which the images in hand should be done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job's next batches look like. `batch_bytes` is None where nothing bounds it."""

    batch: int
    depth: int
    batch_bytes: int | None


@dataclass(slots=True)
class Learnt:
    """What is known of a job's images: sizes of the last ones as pixels in bytes, and the time of the work."""

    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    seen: bool = False
    seconds_per_image: float | None = None

    def image(self) -> int | None:
        """Bytes of a rather large image: the mean of the larger half. None where none is known."""
        upper = sorted(self.sizes)[len(self.sizes) // 2 :]
        return sum(upper) // len(upper) if upper else None

    def largest(self) -> int:
        """Bytes of the largest of the last images; 0 where none is known."""
        return max(self.sizes, default=0)

    def copy(self) -> Learnt:
        """As a first guess for another job."""
        return Learnt(self.sizes.copy(), self.seen, self.seconds_per_image)


class Tuning:
    """What all jobs of this worker share: the budget, what is held back of it, and what earlier jobs taught.

    `pinned`: whether batches are copied into page-locked memory; None asks the settings and torch.
    """

    def __init__(self, settings: WorkerSettings, budget: Budget, *, pinned: bool | None = None) -> None:
        self.settings = settings
        self.limits = _Limits(settings, budget, pinned=_pins(settings) if pinned is None else pinned)
        self.throttle = Throttle(budget.bytes) if budget.bytes is not None else None
        self._of_jobs: OrderedDict[int, Learnt] = OrderedDict()
        self._of_slugs: dict[str, Learnt] = {}

    def for_job(self, job_id: int, slug: str) -> JobTuner:
        """The tuner of a job, which begins with what is known of it, else of the last job of its pipeline."""
        learnt = self._of_jobs.pop(job_id, None)
        if learnt is None:
            earlier = self._of_slugs.get(slug)
            learnt = earlier.copy() if earlier is not None else Learnt()
        self._of_jobs[job_id] = self._of_slugs[slug] = learnt
        if len(self._of_jobs) > JOBS_KEPT:
            self._of_jobs.popitem(last=False)
        return JobTuner(self, learnt)


class JobTuner:
    """Decides for one job. Used by the main thread."""

    def __init__(self, tuning: Tuning, learnt: Learnt) -> None:
        self._tuning = tuning
        self._learnt = learnt

    def batch_size(self) -> int:
        """How many images to reserve next."""
        return self.plan().batch

    def depth(self) -> int:
        """Most batches that may be with the loader; at least 1, at most prefetch × loaders."""
        return self.plan().depth

    def batch_bytes(self) -> int | None:
        """Most bytes of pixels of a batch; None: no limit."""
        return self.plan().batch_bytes

    def plan(self) -> Plan:
        """All three at once."""
        held_back = self._tuning.throttle.held_back if self._tuning.throttle is not None else 0
        return self._tuning.limits.plan(self._learnt, held_back)

    def arrived(self, batch: Batch, images: int) -> None:
        """Learn from a batch that came, of which `images` were asked for."""
        self._learnt.seen |= images > 0
        self._learnt.sizes.extend(height * width * 3 for height, width in batch.shapes)

    def worked(self, images: int, seconds: float) -> None:
        """Learn how long the work on so many images took, wall-clock."""
        if images < 1:
            return
        now, before = seconds / images, self._learnt.seconds_per_image
        self._learnt.seconds_per_image = now if before is None else 0.7 * before + 0.3 * now

    def throttle(self, usage: int) -> None:
        """Take in what the worker with its loader processes uses now, in bytes (`tree_usage(...).total`)."""
        if self._tuning.throttle is not None:
            self._tuning.throttle.seen(usage)

    def why(self) -> str:
        """The plan with its reason in one line, for the log."""
        plan, image = self.plan(), self._learnt.image()
        size = "images of unknown size" if image is None else f"images of about {size_in_words(image)}"
        bound = "no limit" if plan.batch_bytes is None else f"at most {size_in_words(plan.batch_bytes)}"
        room = self._tuning.limits.room(0)
        of = "" if room is None else f", {size_in_words(room)} for pixels in memory"
        return f"batches of {plan.batch} ({bound} each), {plan.depth} ahead: {size}{of}"


class _Limits:
    """What settings and budget allow."""

    def __init__(self, settings: WorkerSettings, budget: Budget, *, pinned: bool) -> None:
        self._settings = settings
        self._loaders = max(1, settings.num_workers)
        self._pinned = pinned
        self._fixed = memory_model.fixed_bytes(settings)
        self._budget = budget.bytes
        has_bound = budget.bytes is not None or settings.autotune
        self._shm = budget.shm_bytes if settings.num_workers and has_bound else None
        self._free_batch = settings.autotune and "antenna_api_batch_size" not in settings.model_fields_set
        self._free_depth = (
            settings.autotune and "antenna_api_dataloader_prefetch_factor" not in settings.model_fields_set
        )

    def room(self, held_back: int) -> int | None:
        """Bytes for pixels, wherever they lie; None without budget. At least 1: one image is always loaded."""
        if self._budget is None:
            return None
        return max(1, int(PLANNED * self._budget) - self._fixed - held_back)

    def plan(self, learnt: Learnt, held_back: int) -> Plan:
        """The plan for a job, from what is known of its images."""
        image = learnt.image()
        if self._free_batch and not learnt.seen:
            depth = min(self._loaders, self._most())
            return Plan(min(PROBE, self._wanted()), depth, self._share(depth, held_back))
        wanted = self._in_time(learnt)
        depth = self._depth(wanted * (image or 0), learnt.largest(), held_back)
        if self._free_depth:
            depth = self._depth_in_time(depth, wanted, learnt)
        limit = self._share(depth, held_back)
        if self._free_batch and limit is not None and image:
            wanted = max(1, min(wanted, limit // image))
        return Plan(wanted, depth, limit)

    def _most(self) -> int:
        """Most batches that the loader can be given."""
        if not self._settings.num_workers:
            return 1
        # What is loaded ahead lies on disk then: one batch for each loader process is enough.
        ahead = 1 if self._settings.staging_dir else self._settings.antenna_api_dataloader_prefetch_factor
        return ahead * self._loaders

    def _wanted(self) -> int:
        return self._settings.antenna_api_batch_size

    def _slots(self, depth: int) -> int:
        """How many batches are in memory at most: with the loader, being worked on, and being pinned."""
        being_worked_on = 1 if self._settings.num_workers else 0
        return depth + being_worked_on + (1 if self._pinned else 0)

    def _share(self, depth: int, held_back: int) -> int | None:
        """Bytes for one batch where so many are with the loader."""
        slots = self._slots(depth)
        room = self.room(held_back)
        shares = [room // slots] if room is not None else []
        if self._shm is not None:
            shares.append(int(SHM_SHARE * self._shm) // slots)
        if not shares:
            return None
        share = max(1, min(shares))
        # torch rounds page-locked memory up to a power of two.
        return 1 << (share.bit_length() - 1) if self._pinned else share

    def _depth(self, batch: int, largest: int, held_back: int) -> int:
        """The most batches ahead at which one of so many bytes fits; fewer than 2 only for a single image."""
        most = self._most()
        few = min(most, max(2, self._loaders))
        for depth in range(most, few, -1):
            share = self._share(depth, held_back)
            if share is None or share >= batch:
                return depth
        for depth in range(few, 1, -1):
            share = self._share(depth, held_back)
            if share is None or share >= largest:
                return depth
        return 1

    def _in_time(self, learnt: Learnt) -> int:
        """Images per batch, so that one in hand and one ahead can be done in the visibility time."""
        visible, each = self._settings.visibility_timeout_s, learnt.seconds_per_image
        if not (self._free_batch and visible and each):
            return self._wanted()
        return max(1, min(self._wanted(), int(IN_TIME * visible / each / 2)))

    def _depth_in_time(self, depth: int, batch: int, learnt: Learnt) -> int:
        visible, each = self._settings.visibility_timeout_s, learnt.seconds_per_image
        if not (visible and each):
            return depth
        return max(1, min(depth, int(IN_TIME * visible / each / batch) - 1))


def _pins(settings: WorkerSettings) -> bool:
    # Imported here: the loader knows this room too.
    from worker.ingest.loader import pins_memory

    return pins_memory(settings)
