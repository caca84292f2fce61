"""Results that the server has not taken yet, kept on disk."""

from __future__ import annotations

from worker.settings import WorkerSettings


class Spool:
    """A directory of posts, shared by the workers of a host, one file each. `why` says in one line where it is."""

    def __init__(self) -> None:
        self.why = "results that cannot be posted are kept in memory only"

    @classmethod
    def of(cls, settings: WorkerSettings) -> Spool:
        """The spool that the settings ask for; one that cannot be had is said in `why`, and keeps nothing."""
        return cls()
