"""The caches of all processes of this worker: published, and emptied at the end of a job."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from torch.multiprocessing.reductions import shared_cache

from amidiag.target.status_page import StatusPage
from worker import caches
from worker.caches import CacheSize
from worker.ingest.batch import LoaderReport
from worker.ingest.loader import Loader

log = logging.getLogger(__name__)


class CacheReport:
    """What the registered caches of this process and of its loader processes hold."""

    def __init__(self, page: StatusPage, *, drains: bool) -> None:
        """`drains`: whether they are emptied at the end of each job."""
        self._page = page
        self._drains = drains
        self._loaders: dict[int, LoaderReport] = {}
        # torch's own: the storages that came from loader processes, alive or not.
        caches.register(
            "torch.shared_cache",
            size=lambda: CacheSize(len(shared_cache), 0),
            drain=shared_cache.free_dead_references,
        )

    def seen(self, report: LoaderReport) -> None:
        """A loader process has said what it holds."""
        self._loaders[report.pid] = report

    def end_of_job(self, job_id: int, loader: Loader | None) -> None:
        """Empty what is to be emptied, in every process that holds something, and publish the sizes.

        Raises:
            LoaderError: a loader process did not answer; it was ended, and its caches with it.
        """
        try:
            if self._drains:
                caches.drain()
                self._drain_loaders(job_id, loader)
        finally:
            self._publish(loader)

    def _drain_loaders(self, job_id: int, loader: Loader | None) -> None:
        here = _pids(loader)
        if loader is None or not any(r.to_drain for pid, r in self._loaders.items() if pid in here):
            return
        for batch in loader.drain_caches(job_id):
            self.seen(batch.report)
            for name, left in batch.report.leftovers.items():
                log.warning(
                    "loader process %s: the cache %s leaks: %s entries, %s bytes are left after job %s",
                    *(batch.report.pid, name, left.entries, left.bytes, job_id),
                )

    def _publish(self, loader: Loader | None) -> None:
        here = _pids(loader)
        self._loaders = {pid: report for pid, report in self._loaders.items() if pid in here}
        entries: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for role, sizes in [
            ("", caches.sizes()),
            *((" (loaders)", r.caches) for r in self._loaders.values()),
        ]:
            _add(entries, held, role, sizes)
        self._page.caches({name: {"entries": entries[name], "bytes": held[name]} for name in entries})


def _add(entries: Counter[str], held: Counter[str], role: str, sizes: Mapping[str, CacheSize]) -> None:
    for name, size in sizes.items():
        entries[name + role] += size.entries
        held[name + role] += size.bytes


def _pids(loader: Loader | None) -> Sequence[int | None]:
    return [process.pid for process in loader.processes] if loader is not None else []
