"""What a job cost the worker: one line with FDs, memory and shared memory, and their change since the job before."""

from __future__ import annotations


class Footprint:
    """Remembers what was used after the job before."""

    def line(self) -> str:
        """What worker and loader processes use now, and the change since the last call."""
        return ""
