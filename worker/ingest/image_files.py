"""The file of a task's image: from the staging directory, from the cache of this process, or from the network."""

from __future__ import annotations

from pathlib import Path

from worker.antenna.schemas import Task
from worker.ingest.download import download, image_session
from worker.ingest.image_cache import ImageCache
from worker.ingest.limits import ImageLimits


class ImageFiles:
    """Where a loader process has its files from. Safe for threads."""

    def __init__(self, limits: ImageLimits, threads: int, cache_bytes: int, staging_dir: str) -> None:
        self._limits = limits
        self._cache = ImageCache(cache_bytes)
        self._staging = Path(staging_dir) if staging_dir else None
        self._session = image_session(threads)

    def fetch(self, job_id: int, task: Task) -> bytes:
        """The bytes of the file.

        Raises:
            DownloadError: it could not be had.
        """
        data = self._staged(job_id, task)
        if data is None:
            data = self._cache.get(task.image_url)
        return download(self._session, task.image_url, self._limits) if data is None else data

    def keep(self, task: Task, data: bytes) -> None:
        """Remember a file that is an image, for a task that comes again."""
        self._cache.put(task.image_url, data)

    def forget(self, task: Task) -> None:
        """A file has turned out to be damaged."""
        self._cache.discard(task.image_url)

    def close(self) -> None:
        """End the connections and the cache."""
        self._session.close()
        self._cache.close()

    def _staged(self, job_id: int, task: Task) -> bytes | None:
        if self._staging is None:
            return None
        from worker.ingest.staging import read_staged

        return read_staged(self._staging, job_id, task)
