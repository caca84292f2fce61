"""Resident memory of one process from `/proc/PID/status`, which is world-readable and cheap.

Never from `smaps` or `smaps_rollup`: they walk the page tables under the target's mmap lock, 120 to
230 ms on a target with 8 GiB of shared memory, and its own mmap calls wait for that.
"""

from __future__ import annotations

from dataclasses import dataclass

from amidiag.model import MemoryUse
from amidiag.procfs.processes import ENDED_STATES, read_file


@dataclass(frozen=True, slots=True)
class StatusFields:
    """The part of `/proc/PID/status` that is watched (proc_pid_status(5)), in bytes."""

    state: str
    threads: int
    memory: MemoryUse

    @property
    def ended(self) -> bool:
        """A zombie."""
        return self.state in ENDED_STATES


def read_status(pid: int, name: str | None = None) -> StatusFields:
    """Read `/proc/PID/status`. Raises ProcessGone."""
    return parse_status(read_file(pid, "status", "the memory use", name))


def parse_status(data: bytes) -> StatusFields:
    """Parse `/proc/PID/status`. Kernel threads and zombies have no memory lines: None."""
    memory = MemoryUse(
        rss=_kilobytes(data, b"\nVmRSS:"),
        anonymous=_kilobytes(data, b"\nRssAnon:"),
        file=_kilobytes(data, b"\nRssFile:"),
        shmem=_kilobytes(data, b"\nRssShmem:"),
    )
    # "State:\tS (sleeping)": the letter. The name stands before it and cannot hold a raw newline.
    state = data[data.index(b"\nState:") + 8 :][:1].decode("ascii")
    return StatusFields(state, _number_after(data, b"\nThreads:") or 0, memory)


def _kilobytes(data: bytes, key: bytes) -> int | None:
    number = _number_after(data, key)
    return None if number is None else number * 1024


def _number_after(data: bytes, key: bytes) -> int | None:
    start = data.find(key)
    if start < 0:
        return None
    return int(data[start + len(key) : data.index(b"\n", start + 1)].split(None, 1)[0])
