"""Resident memory of one process from `/proc/PID/status`, which is world-readable and cheap.

Never from `smaps` or `smaps_rollup`: they walk the page tables under the target's mmap lock, 120 to
230 ms on a target with 8 GiB of shared memory, and its own mmap calls wait for that.
"""

from __future__ import annotations

from typing import NamedTuple

from amidiag.model import MemoryUse
from amidiag.procfs.processes import ENDED_STATES, read_file

_NO_MEMORY = MemoryUse(None, None, None, None)
_FOUR_LINES = 160  # Each is "RssShmem:\t%8lu kB\n" and at most 38 bytes long.


class StatusFields(NamedTuple):
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
    # "State:\tS (sleeping)": the letter. The name stands before it and cannot hold a raw newline.
    letter = data.index(b"\nState:\t") + 8
    threads = data.index(b"\nThreads:\t", letter) + 10
    return StatusFields(
        data[letter : letter + 1].decode("ascii"),
        int(data[threads : data.index(b"\n", threads)]),
        _memory(data, letter),
    )


def _memory(data: bytes, start: int) -> MemoryUse:
    # Four lines that stand together (fs/proc/task_mmu.c, task_mem): one search instead of four.
    at = data.find(b"\nVmRSS:", start)
    if at < 0:
        return _NO_MEMORY
    words = data[at + 7 : at + _FOUR_LINES].split(None, 10)
    if words[2] != b"RssAnon:":
        return MemoryUse(int(words[0]) * 1024, None, None, None)  # Before Linux 4.5.
    return MemoryUse(int(words[0]) * 1024, int(words[3]) * 1024, int(words[6]) * 1024, int(words[9]) * 1024)
