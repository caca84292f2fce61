"""The file of a task's image: from the staging directory, from the cache of this process, or from the network."""

from __future__ import annotations

from pathlib import Path

from worker.antenna.schemas import Task
from worker.ingest.download import download
from worker.ingest.image_cache import ImageCache
from worker.ingest.image_key import image_key
from worker.ingest.image_session import image_session
from worker.ingest.limits import ImageLimits
from worker.ingest.staged_files import read_staged


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
            data = self._cache.get(image_key(task))
        if data is None:
            data = download(self._session, task.image_url, self._limits)
            self._cache.put(image_key(task), data)
        return data

    def forget(self, task: Task) -> None:
        """A file has turned out to be no image, or a damaged one: it is downloaded anew if it is asked for."""
        self._cache.discard(image_key(task))

    def close(self) -> None:
        """End the connections and the cache."""
        self._session.close()
        self._cache.close()

    def _staged(self, job_id: int, task: Task) -> bytes | None:
        return None if self._staging is None else read_staged(self._staging, job_id, task)
