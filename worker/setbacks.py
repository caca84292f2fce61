"""What goes wrong in a row, at polls, reservations and loaders: said once, shown as health, ended where it lasts."""

from __future__ import annotations

from amidiag.target.status_page import StatusPage
from worker.antenna.schemas import AntennaError
from worker.exhaustion import Shortage, behind
from worker.guard.fd_reserve import FdReserve
from worker.ingest.loader import LoaderError
from worker.reach import Reach
from worker.settings import WorkerSettings
from worker.visit import Tally

_ASKING, _TAKING, _LOADING = "asking for jobs", "taking tasks", "loading images"
_FAILED_VISITS = 5

RESULTS_NOT_TAKEN = "the server does not take results"


class Setbacks:
    """Each of its methods tells it how something went; those that tell of a failure may end the worker by what they
    raise: `UnreachableError`, `ExhaustedError`, or `LoaderError`."""

    def __init__(self, settings: WorkerSettings, page: StatusPage, reserve: FdReserve) -> None:
        self._page = page
        self._polls = Reach(settings.antenna_unreachable_limit_s)
        # A server may answer polls and hand out no task.
        self._takes = Reach(settings.antenna_unreachable_limit_s, "no more tasks could be taken", "visits")
        self._shortage = Shortage(reserve)
        self._failed_visits = 0

    @property
    def at_work(self) -> bool:
        """Whether nothing is known that keeps the worker from its work."""
        return not self._polls.failing and not self._failed_visits

    def poll_failed(self, error: AntennaError) -> None:
        """A poll got no usable answer."""
        self._page.health(False, f"no usable answer to a poll: {error}")
        self._failed(error, _ASKING, self._polls)

    def poll_answered(self, *, jobs: bool) -> None:
        """A poll was answered. `jobs`: whether there are any."""
        self._polls.answered()
        self._shortage.over(_ASKING)
        if not jobs:
            self._takes.forget()
            self._shortage.over(_TAKING)

    def tasks_taken(self) -> None:
        """The server hands out tasks, or has none."""
        self._takes.answered()
        self._shortage.over(_TAKING)

    def tasks_refused(self, error: AntennaError) -> None:
        """The server hands out no tasks. It may answer polls all the while."""
        self._failed(error, _TAKING, self._takes)

    def visited(self, tally: Tally) -> None:
        """A job was visited. A loader that can never do its work would reserve tasks until they are lost."""
        if tally.batches:
            self._failed_visits = 0
            self._shortage.over(_ASKING, _LOADING)
        elif tally.failed:
            self._failed_visits += 1
            if tally.exhausted is not None:
                self._shortage.met(tally.exhausted, _LOADING, "no loader has brought a batch")
        if self._failed_visits >= _FAILED_VISITS:
            raise LoaderError(f"no loader has brought a batch in {_FAILED_VISITS} visits to jobs in a row")

    def show(self, *, results_not_taken: bool) -> None:
        """Put what it comes to on the status page, after a poll that was answered."""
        if self._failed_visits:
            why = f"no loader has brought a batch in the last {self._failed_visits} visits to jobs"
        elif results_not_taken:
            why = RESULTS_NOT_TAKEN
        elif self._takes.failing:
            why = "the server hands out no tasks"
        else:
            why = None
        self._page.health(why is None, why)

    def pause(self, wanted_s: float) -> float:
        """Seconds until the next poll, of which `wanted_s` are wanted anyhow."""
        failing = self._polls if self._polls.failing else self._takes
        return failing.pause(wanted_s)

    def raise_last(self) -> None:
        """Raise what has gone wrong last and is not over: for a worker that makes no further poll."""
        if self._polls.failing:
            raise self._polls.unreachable()
        if self._shortage.error is not None:
            raise self._shortage.error

    def _failed(self, error: AntennaError, doing: str, calls: Reach) -> None:
        missing = behind(error)
        if missing is not None:
            self._shortage.met(missing, doing, error)
        else:
            calls.failed(error)
