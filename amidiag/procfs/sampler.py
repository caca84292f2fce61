"""The cheap look, made to be repeated for ever: FD count, threads and memory from kept-open descriptors."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from types import TracebackType

from amidiag.model import Identity, MemoryUse
from amidiag.procfs.errors import NoPermission, explain, gone
from amidiag.procfs.fds import count, size_is_count
from amidiag.procfs.identity import still
from amidiag.procfs.memory import parse_status

_STATUS_BYTES = 16_384  # `status` is about 1.5 kB; on 4096 CPUs the allowed lists make it a few kB.


@dataclass(frozen=True, slots=True)
class LightSample:
    """A process at `at` (CLOCK_MONOTONIC, seconds). `fds` is None where they may not be counted."""

    at: float
    fds: int | None
    threads: int
    memory: MemoryUse


class ProcessSampler:
    """Samples one process through two kept-open descriptors, which stay bound to it when its PID is reused.

    Raises ProcessGone where the process has ended, NoPermission where `/proc` hides it, ReaderExhausted
    where no two FDs are free. Close it, or use it as a context manager. `listing=True` forces the way of
    kernels before 6.2, which have to list the FDs to count them.
    """

    def __init__(self, identity: Identity, *, listing: bool | None = None) -> None:
        self.identity = identity
        self._listing = not size_is_count() if listing is None else listing
        self._fds = -1
        self._status = -1
        try:
            self._fds = os.open(f"/proc/{identity.pid}/fd", os.O_PATH | os.O_CLOEXEC)
            self._status = os.open(f"/proc/{identity.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise explain(error, identity.pid, None, "the counts") from error
        # Asked after the opening: if the process is the right one now, it was so when they were opened.
        if not still(identity):
            self.close()
            raise gone(identity.pid, was_seen=True)

    def sample(self) -> LightSample:
        """One sample: two or three system calls. Raises ProcessGone once the process has ended."""
        at = time.monotonic()
        try:
            fds = self._count()
            data = os.pread(self._status, _STATUS_BYTES, 0)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise gone(self.identity.pid, was_seen=True) from error
        status = parse_status(data)
        if status.ended:
            raise gone(self.identity.pid, was_seen=True)
        return LightSample(at, fds, status.threads, status.memory)

    def _count(self) -> int | None:
        if not self._listing:
            return os.fstat(self._fds).st_size
        # Listed by PID. If that has gone to another process, reading the status says so next.
        try:
            return count(self.identity.pid, listing=True)
        except NoPermission:
            return None

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        for descriptor in (self._fds, self._status):
            if descriptor >= 0:
                os.close(descriptor)
        self._fds = self._status = -1

    def __enter__(self) -> ProcessSampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def light_sample(identity: Identity) -> LightSample:
    """One sample of a process. To repeat it, keep a ProcessSampler. Raises as that does."""
    with ProcessSampler(identity) as sampler:
        return sampler.sample()
