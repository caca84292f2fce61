"""Counters and health of one worker, for Prometheus."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from amidiag.target.status_page import StatusPage
from worker.settings import WorkerSettings


def served(settings: WorkerSettings, page: StatusPage) -> AbstractContextManager[object]:
    """A context in which metrics are served, where the settings ask for it.

    Raises:
        SettingsError: the port cannot be had.
    """
    return nullcontext()
