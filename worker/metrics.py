"""Counters and health of one worker, for Prometheus."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amidiag.target.status_page import COUNTERS, STATES, StatusPage
from worker.guard.fd_cap import own_limit
from worker.guard.use import Use, use_of
from worker.metrics_server import Answer, MetricsServer
from worker.settings import Problem, SettingsError, WorkerSettings, env_name

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

# However often it is asked: what is used is looked at no more often than this.
_LOOK_EVERY_S = 1.0
# So many kept posts are counted, and then no more.
_MOST_KEPT = 10_000
_MEANT = {
    "polls": "Requests for jobs.",
    "jobs": "Jobs of which a task was taken.",
    "loaders": "DataLoaders built.",
    "batches": "Batches worked on.",
    "images": "Images answered, errors among them.",
    "posts": "Posts of results that the server took.",
}


@contextmanager
def served(
    settings: WorkerSettings, page: StatusPage, spool: Callable[[], Path | None] = lambda: None
) -> Iterator[None]:
    """A context in which metrics are served, where the settings ask for it. `spool`: where results are kept.

    `/metrics` is for Prometheus, `/health` answers 200 or 503 with what the status page says. Both come from a
    thread of their own, at EMFILE and while the main thread hangs too.

    Raises:
        SettingsError: the port cannot be had.
    """
    if not settings.metrics_port:
        yield
        return
    exposition = Exposition(page, spool)
    try:
        server = MetricsServer(
            settings.metrics_address,
            settings.metrics_port,
            {"/metrics": exposition.metrics, "/health": exposition.health},
        )
    except OSError as e:
        where = f"{settings.metrics_address}: {e.strerror or e}"
        problem = Problem(
            env_name("metrics_port"), str(settings.metrics_port), "a port that can be had", where
        )
        raise SettingsError([problem]) from None
    log.info("metrics on %s", server.url)
    with server:
        yield


class Exposition:
    """The texts that are served, read anew for each request. Used by one thread."""

    def __init__(self, page: StatusPage, spool: Callable[[], Path | None] = lambda: None) -> None:
        # Imported only where it is wanted: 50 ms.
        from prometheus_client import CollectorRegistry, exposition

        self._page = page
        self._spool = spool
        self._started = time.time()
        self._use = Use()
        self._looked = float("-inf")
        # Of our own: the common one also has figures of the process that cost a listing of its FDs.
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._exposition = exposition

    def metrics(self) -> Answer:
        """The text format of Prometheus."""
        return Answer(
            200, self._exposition.CONTENT_TYPE_LATEST, self._exposition.generate_latest(self._registry)
        )

    def health(self) -> Answer:
        """200 where the worker can do its work, else 503; null where there is no status page to say it."""
        said = self._page.read()
        health: dict[str, Any] = {"ok": None, "why": self._page.error, "since": None}
        if said is not None:
            # The form in which `amidiag` shows it.
            since = datetime.fromtimestamp(said["health"]["since"], UTC).isoformat(timespec="seconds")
            health = {**said["health"], "since": since}
        body = json.dumps(health).encode() + b"\n"
        return Answer(503 if health["ok"] is False else 200, "application/json", body)

    def describe(self) -> list[Metric]:
        """For the registry: names are not looked for before there is a request."""
        return []

    def collect(self) -> Iterator[Metric]:
        """What is known now; what is not has no sample."""
        yield _gauge(
            "start_time_seconds", "When this process began to work; a restart changes it.", self._started
        )
        yield from self._of_page()
        yield from self._of_processes()
        yield from _of_spool(self._spool())

    def _of_page(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        said = self._page.read()
        if said is None:
            return
        for name in COUNTERS:
            yield CounterMetricFamily(f"ami_worker_{name}", _MEANT[name], value=said["counters"][name])
        state = GaugeMetricFamily("ami_worker_state", "1 for what the worker does now.", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(name == said["state"]))
        yield state
        yield _gauge("progress_age_seconds", "Time since it last got on.", said["progress_age"])
        yield _gauge("healthy", "1 where it can do its work.", float(said["health"]["ok"]))
        yield _gauge("health_since_seconds", "Since when it is, or is not, healthy.", said["health"]["since"])
        for unit in ("entries", "bytes"):
            sizes = GaugeMetricFamily(f"ami_worker_cache_{unit}", "What its caches hold.", labels=["cache"])
            for cache, size in said["caches"].items():
                if unit in size:
                    sizes.add_metric([cache], size[unit])
            yield sizes

    def _of_processes(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY_S:
            self._use, self._looked = use_of(os.getpid()), now
        use = self._use
        yield _gauge("fds_open", "Open FDs of the worker.", use.fds)
        yield _gauge("fds_limit", "At so many it meets EMFILE.", own_limit())
        by_type = GaugeMetricFamily("ami_worker_fds", "Open FDs of the worker by type.", labels=["type"])
        for kind, number in use.by_type.items():
            by_type.add_metric([kind], number)
        yield by_type
        yield _gauge("child_fds_open", "Open FDs of loader and other processes.", use.child_fds)
        yield _gauge("children", "Loader and other processes.", use.children)
        memory = GaugeMetricFamily(
            "ami_worker_memory_bytes", "Resident memory of the worker.", labels=["kind"]
        )
        kinds = (("anonymous", use.memory.anonymous), ("file", use.memory.file), ("shmem", use.memory.shmem))
        for kind, size in kinds:
            if size is not None:
                memory.add_metric([kind], size)
        yield memory
        yield _gauge(
            "tree_memory_bytes", "Private and shared memory of worker and loader processes.", use.tree
        )
        yield _gauge("shm_held_bytes", "Shared memory that they map or hold, each segment once.", use.held)


def _of_spool(directory: Path | None) -> Iterator[Metric]:
    """Of all workers that share it."""
    if directory is None:
        return
    posts = size = 0
    try:
        # A directory for each server, and in it one for each worker.
        for path in islice(directory.glob("*/*/*.json"), _MOST_KEPT):
            try:
                size += path.stat().st_size
            except FileNotFoundError:
                continue  # Posted meanwhile.
            posts += 1
    except OSError:
        # A worker has ended meanwhile and taken its directory away, or there is no FD: not known, this time.
        return
    yield _gauge("spool_posts", "Posts on disk that the server has not taken yet.", posts)
    yield _gauge("spool_bytes", "What they take.", size)


def _gauge(name: str, meaning: str, value: float | None) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"ami_worker_{name}", meaning)
    if value is not None:
        family.add_metric([], value)
    return family
