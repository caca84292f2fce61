"""What this process or machine has run out of: in a chain of wrapped errors, by trying, and how often."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections import Counter
from collections.abc import Iterator

from worker.guard.fd_reserve import FdReserve

log = logging.getLogger(__name__)

# Of this process or machine, and never of an image, a job or the server.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC)

_TRIES = 3
# multiprocessing.reduction.recvfds, where the kernel could not give this process the FD that was sent to it.
_NOT_RECEIVED = "items of ancdata"
# A look-up of a name and a new TLS connection need so many at a time.
_WANTED = 4


class ExhaustedError(RuntimeError):
    """The worker has run out of something that only a new process, or the operator, can give. The text says what."""


def exhausted(error: BaseException) -> str | None:
    """`EMFILE: Too many open files` where that is at the bottom of `error`, however it was wrapped; else None.

    torch says ENOSPC and EMFILE in the text of a RuntimeError only, with the number in brackets; and of an
    error in a loader process only the text arrives here.
    """
    for cause in _chain(error):
        text = str(cause) if isinstance(cause, OSError | RuntimeError) else ""
        for number in _OURS:
            if getattr(cause, "errno", None) == number or _says(text, number):
                return _named(number)
        if _NOT_RECEIVED in text:
            return _named(errno.EMFILE)
    return None


def findable(what: str) -> str:
    """What `exhausted` has named, as it finds it again in the text of an error of another process."""
    return f"{what} ({getattr(errno, what.partition(':')[0])})"


def short_of_fds(wanted: int = _WANTED) -> str | None:
    """As `exhausted`, by trying: what stands in the way of opening `wanted` FDs now; None where nothing does.

    For errors that do not say it: getaddrinfo that cannot open its files or a socket reports a name that is
    not known, and OpenSSL a system library.
    """
    taken: list[int] = []
    try:
        for _ in range(wanted):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        return _named(e.errno) if e.errno in _OURS else None
    finally:
        for fd in taken:
            os.close(fd)
    return None


def behind(error: BaseException) -> str | None:
    """As `exhausted`; where a call of the network has failed and does not say by what, also by trying.

    A connection that was refused, reset or too slow had its FD, however few are left.
    """
    found = exhausted(error)
    if found is not None or not isinstance(error.__cause__, OSError):
        return found
    says_it = any(isinstance(cause, ConnectionError | TimeoutError) for cause in _chain(error))
    return None if says_it else short_of_fds()


class Shortage:
    """Counts tries in a row at which something had run out, and ends the worker when that persists.

    The reserve of FDs is lent for the last words, and given up for good when the worker ends.
    """

    def __init__(self, reserve: FdReserve) -> None:
        self._reserve = reserve
        self._tries: Counter[str] = Counter()
        self._said = ""

    @property
    def error(self) -> ExhaustedError | None:
        """What the worker has run out of; None where it has all that it needs."""
        tries = self._tries.total()
        return ExhaustedError(f"{self._said} ({tries} in a row){_advice(self._said)}") if tries else None

    def met(self, what: str, doing: str, error: BaseException | str) -> None:
        """While `doing` something there was no `what`, as `exhausted` names it. Logged once for each `what`.

        Raises:
            ExhaustedError: for the third time in a row, whatever it was doing.
        """
        self._tries[doing] += 1
        self._reserve.release()
        new = what not in self._said
        self._said = f"{what}, when {doing}: {error}"
        if self._tries.total() >= _TRIES:
            raise ExhaustedError(f"{self._said} ({_TRIES} in a row){_advice(self._said)}")
        if new:
            log.error("%s; the worker ends when that comes %s times in a row", self._said, _TRIES)
        self._reserve.renew()

    def over(self, *doing: str) -> None:
        """That has gone well again."""
        for one in doing:
            if self._tries.pop(one, 0):
                log.info("%s: that has gone well again", one)
        if not self._tries:
            self._said = ""


def _advice(said: str) -> str:
    if not said.startswith(errno.errorcode[errno.EMFILE]):
        return ""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"; the limit is {soft} FDs: LimitNOFILE of systemd, minfds of supervisor, ulimit -n"


def _says(text: str, number: int) -> bool:
    meaning = os.strerror(number)
    return any(
        said in text for said in (f"{meaning} ({number})", f"[Errno {number}] {meaning}", _named(number))
    )


def _named(number: int) -> str:
    return f"{errno.errorcode[number]}: {os.strerror(number)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    waiting, seen = [error], set()
    while waiting:
        cause = waiting.pop()
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (getattr(cause, "reason", None), cause.__cause__, cause.__context__, *cause.args)
        waiting.extend(e for e in inner if isinstance(e, BaseException))
