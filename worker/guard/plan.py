"""The plan of a job's batches: how many images, how many batches ahead, how many bytes each may have."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from worker.guard import memory_model
from worker.guard.budget import Budget
from worker.guard.throttle import PLANNED
from worker.settings import WorkerSettings

PROBE: Final = 4
"""Images of the first batches of a job of which nothing is known."""
SHM_SHARE: Final = 0.9
"""Share of the room in `/dev/shm` that batches may take: where it is full no batch can be made."""
RECENT: Final = 256
FILES: Final = 2
"""How many times the bytes of a batch's files are needed in a loader process (memory_model)."""
IN_TIME: Final = 0.8
"""Share of the visibility time in which two batches should be done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job's next batches look like. `batch_bytes`, of pixels, is None where nothing bounds it."""

    batch: int
    depth: int
    batch_bytes: int | None


@dataclass(slots=True)
class Learnt:
    """What is known of a job: the sizes of its last images as pixels, of their files, the time of the work.

    `sizes` in bytes; `file_bytes` of one file on average, `seconds_per_image` wall-clock, None where unknown.
    """

    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    seen: bool = False
    file_bytes: float | None = None
    seconds_per_image: float | None = None

    def image(self) -> int:
        """Bytes of a rather large image: the mean of the larger half. 0 where none is known."""
        upper = sorted(self.sizes)[len(self.sizes) // 2 :]
        return sum(upper) // len(upper) if upper else 0

    def largest(self) -> int:
        """Bytes of the largest of the last images; 0 where none is known."""
        return max(self.sizes, default=0)

    def copy(self) -> Learnt:
        """As a first guess for another job."""
        return replace(self, sizes=self.sizes.copy())


class Limits:
    """What settings and budget allow.

    `own`: private memory of this process now, in bytes, as far as it is known to be more than a fresh one's.
    """

    def __init__(self, settings: WorkerSettings, budget: Budget, *, pinned: bool, own: int = 0) -> None:
        self._settings = settings
        self._loaders = max(1, settings.num_workers)
        self._pinned = pinned
        self._fixed = memory_model.fixed_bytes(settings, own)
        self._budget = budget.bytes
        has_bound = budget.bytes is not None or settings.autotune
        self._shm = budget.shm_bytes if settings.num_workers and has_bound else None
        self._free_batch = settings.autotune and "antenna_api_batch_size" not in settings.model_fields_set

    def room(self, held_back: int = 0) -> int | None:
        """Bytes for batches, pixels and files; None without budget. At least 1: one image is always loaded."""
        if self._budget is None:
            return None
        return max(1, int(PLANNED * self._budget) - self._fixed - held_back)

    def plan(self, learnt: Learnt, held_back: int = 0) -> Plan:
        """The plan for a job, from what is known of its images."""
        if not learnt.seen and (self._free_batch or self._share(1, 0, held_back) is not None):
            return self._first(held_back)
        files = FILES * self._loaders * (learnt.file_bytes or 0)
        wanted = self._with_files(self._in_time(learnt), files, held_back)
        depth = self._depth(wanted, learnt, int(files * wanted), held_back)
        limit = self._share(depth, int(files * wanted), held_back)
        if limit is not None and learnt.image():
            # Fewer images have fewer bytes of files as well.
            each = learnt.image() + files / self._slots(depth)
            wanted = max(1, min(wanted, int((limit + files * wanted / self._slots(depth)) / each)))
            limit = self._share(depth, int(files * wanted), held_back)
        return Plan(wanted, depth, limit)

    def _first(self, held_back: int) -> Plan:
        """Of a job of which nothing is known: no more than one batch for each loader process."""
        wanted, depth = self._settings.antenna_api_batch_size, min(self._loaders, self._most())
        if not self._free_batch:
            return Plan(wanted, depth, self._share(depth, 0, held_back))
        # A few images, and no more than the share of the deepest plan: so that can follow at once.
        return Plan(min(PROBE, wanted), depth, self._share(self._most(), 0, held_back))

    def _most(self) -> int:
        """Most batches that the loader can be given."""
        if not self._settings.num_workers:
            return 1
        # What is loaded ahead lies on disk then: one batch for each loader process is enough.
        ahead = 1 if self._settings.staging_dir else self._settings.antenna_api_dataloader_prefetch_factor
        return ahead * self._loaders

    def _slots(self, depth: int) -> int:
        """How many batches are in memory at most: with the loader, being worked on, and being pinned."""
        return memory_model.batches_in_memory(depth, self._settings.num_workers, pinned=self._pinned)

    def _share(self, depth: int, files: int, held_back: int) -> int | None:
        """Bytes of pixels for one batch where so many are with the loader, and files of so many bytes."""
        slots = self._slots(depth)
        room = self.room(held_back)
        shares = [(room - files) // slots] if room is not None else []
        if self._shm is not None:
            shares.append(int(SHM_SHARE * self._shm) // slots)
        if not shares:
            return None
        share = max(1, min(shares))
        # torch rounds page-locked memory up to a power of two.
        return 1 << (share.bit_length() - 1) if self._pinned else share

    def _depth(self, batch: int, learnt: Learnt, files: int, held_back: int) -> int:
        """The most batches ahead at which a batch fits; fewer than 2 only where the largest image does not."""
        most = self._most()
        few = min(most, max(2, self._loaders))
        for depth in range(most, 1, -1):
            share = self._share(depth, files, held_back)
            need = batch * learnt.image() if depth > few else learnt.largest()
            if share is None or share >= need:
                return depth
        return 1

    def _in_time(self, learnt: Learnt) -> int:
        """Images per batch, so that two batches can be done in the visibility time: else none is loaded ahead."""
        wanted = self._settings.antenna_api_batch_size
        visible, each = self._settings.visibility_timeout_s, learnt.seconds_per_image
        if not (self._free_batch and visible and each):
            return wanted
        return max(1, min(wanted, int(IN_TIME * visible / each / 2)))

    def _with_files(self, wanted: int, files: float, held_back: int) -> int:
        """Images per batch, so that their files, which are all fetched first, take no more than half of the room."""
        room = self.room(held_back)
        if room is None or not files:
            return wanted
        return max(1, min(wanted, int(room / 2 / files)))
