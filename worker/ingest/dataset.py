"""Tasks to samples, inside a loader process: download and decode in threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from torch.utils.data import Dataset

from worker.antenna.schemas import Task
from worker.ingest.batch import Sample
from worker.ingest.decode import DecodeError, decode
from worker.ingest.download import DownloadError, download, image_session


class ImageDataset(Dataset[Any]):
    """A map-style dataset whose keys are tasks, fetched a list at a time.

    It is pickled to loader processes (forkserver, spawn) or copied by fork, so threads and connections are
    made where they are first used, and never before a fork.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._session: requests.Session | None = None

    def __getitem__(self, task: Task) -> Sample:
        return self.__getitems__([task])[0]

    def __getitems__(self, tasks: Sequence[Task]) -> list[Sample]:
        """The samples of `tasks`, in order. A task that fails becomes a sample with an error."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="ami-download")
            self._session = image_session(self._threads)
        return list(self._executor.map(self._load, tasks))

    def close(self) -> None:
        """End the threads and connections of this process. With loader processes there are none here."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _load(self, task: Task) -> Sample:
        assert self._session is not None
        try:
            return Sample(task, decode(download(self._session, task.image_url)), None)
        except (DownloadError, DecodeError) as e:
            return Sample(task, None, f"failed to load image: {e}")
        except Exception as e:  # noqa: BLE001 - one image must never end a loader that holds a whole batch
            return Sample(task, None, f"failed to load image: {type(e).__name__}: {e}")
