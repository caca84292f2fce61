"""The processing services that registered their pipelines with `POST /projects/{id}/pipelines/`."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from amidiag.soak.antenna.words import Registration


class Registry:
    """Services by name, numbered from 1 in the order of their first registration. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: dict[str, Registration] = {}
        self._slugs: set[str] = set()

    def register(
        self, project_id: int, service: str, pipelines: Mapping[str, Mapping[str, Any]]
    ) -> tuple[int, list[str], list[str]]:
        """Returns the service's id, the slugs that are new on this server, the slugs it knew."""
        with self._lock:
            known = self._services.get(service) or Registration(len(self._services) + 1, (), {})
            self._services[service] = Registration(
                known.service_id,
                tuple(dict.fromkeys((*known.projects, project_id))),
                {**known.pipelines, **pipelines},
            )
            created = [slug for slug in pipelines if slug not in self._slugs]
            updated = [slug for slug in pipelines if slug in self._slugs]
            self._slugs.update(created)
            return known.service_id, created, updated

    def registered(self) -> dict[str, Registration]:
        with self._lock:
            return dict(self._services)
