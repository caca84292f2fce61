"""No wait in the worker is without a limit, but for those that are named here with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from waits import waits_in, waits_of

import worker

PACKAGE = Path(worker.__file__).parent

_DAEMON = "a daemon thread, for which nobody waits"
_MEMORY = "held for a few operations in memory, never for a call that waits"

# What blocks and has no limit of its own: why it ends, or why nobody minds. The line is not in it: it changes.
ALLOWED = {
    "worker/draining.py _listen os.read": _DAEMON,
    "worker/draining.py sleep time.sleep": "a pause that the caller chose; a signal ends it",
    "worker/guard/leaving.py _leave time.sleep": _DAEMON,
    "worker/ingest/dataset.py _in_threads self._tools.executor.map": "each image has its time limit; in a loader "
    "process, which is ended when it shows no sign of life",
    "worker/ingest/dataset.py close self.executor.shutdown": "what is under way are downloads with time limits, "
    "and only where there are no loader processes",
    "worker/ingest/dataset.py with tools.decoding": "in a loader process, which is ended when it shows no sign of life",
    "worker/ingest/download.py _fetch_patiently time.sleep": "a pause of 2 s at most",
    "worker/ingest/loader.py _within_limit next": "in slices of half a second, watched by LoaderWatch",
    "worker/ingest/loader.py next self.wait": "Loader.wait, see _within_limit",
    "worker/ingest/loader_process.py _end_with_parent parent.join": _DAEMON,
    "worker/ingest/staging.py _clean self._orders.get": _DAEMON,
    "worker/ingest/staging_list.py take self._changed.wait": _DAEMON,
    "worker/instances.py listen os.read": _DAEMON,
    "worker/loop.py _rest self._drain.sleep": "Drain.sleep: a signal ends it, and the length is a setting",
    "worker/metrics_server.py _first_line self.request.recv": "the socket has a limit, set in the line before",
    "worker/visit.py _pause self._drain.sleep": "Drain.sleep: some seconds",
} | dict.fromkeys(
    (
        "worker/antenna/client.py with self._lock",
        "worker/antenna/journal.py with self._lock",
        "worker/antenna/posting.py with self._changed",
        "worker/caches.py with _lock",
        "worker/guard/fd_reserve.py with self._lock",
        "worker/ingest/image_cache.py with self._lock",
        "worker/ingest/staging_list.py with self._changed",
    ),
    _MEMORY,
)


def test_every_wait_without_a_limit_is_named_with_its_reason_and_no_reason_is_left_over() -> None:
    found = {wait.key: f"{wait.file}:{wait.line}" for wait in waits_of(PACKAGE)}
    assert {key: where for key, where in found.items() if key not in ALLOWED} == {}
    assert sorted(set(ALLOWED) - set(found)) == []


@pytest.mark.parametrize(
    "planted",
    [
        "process.wait()",
        "thread.join()",
        "event.wait()",
        "condition.wait_for(lambda: done)",
        "self._lock.acquire()",
        "queue.get()",
        "connection.recv()",
        "sock.recv(10)",
        "sock.accept()",
        "pool.map(work, images)",
        "future.result()",
        "process.communicate()",
        "subprocess.run(words)",
        "fcntl.flock(fd, fcntl.LOCK_EX)",
        "fcntl.lockf(fd, fcntl.LOCK_EX)",
        "os.read(pipe, 1)",
        "os.waitpid(pid, 0)",
        "poller.poll()",
        "select.select(r, w, x)",
        "signal.sigwait(numbers)",
        "time.sleep(pause)",
        "session.get(url)",
        "requests.post(url, json={})",
        "next(self._iterator)",
        "with self._lock: pass",
    ],
)
def test_a_planted_wait_is_found(planted: str) -> None:
    (wait,) = waits_in(f"class C:\n    def work(self):\n        {planted}\n", "worker/planted.py")
    assert wait.key.startswith("worker/planted.py")
    assert wait.key not in ALLOWED
    assert wait.line == 3


@pytest.mark.parametrize(
    "limited",
    [
        "process.wait(5)",
        "thread.join(LIMIT_S)",
        "event.wait(timeout=1)",
        "lock.acquire(timeout=2)",
        "lock.acquire(False)",
        "queue.get(timeout=0.5)",
        "settings.get('name')",
        "', '.join(words)",
        "process.communicate(timeout=3)",
        "subprocess.run(words, timeout=3)",
        "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "os.waitpid(pid, os.WNOHANG)",
        "process.poll()",
        "select.select(r, w, x, 1)",
        "time.sleep(0.5)",
        "time.sleep(_PAUSE_S)",
        "session.get(url, timeout=3)",
        "next(iter(words))",
    ],
)
def test_what_has_a_limit_is_not(limited: str) -> None:
    assert list(waits_in(limited, "worker/planted.py")) == []
