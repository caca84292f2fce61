"""Limits that the kernel holds a process to."""

from __future__ import annotations

from typing import NamedTuple

from amidiag.procfs.processes import read_file


class NofileLimit(NamedTuple):
    """RLIMIT_NOFILE (getrlimit(2)): EMFILE comes at `soft`; None is unlimited."""

    soft: int | None
    hard: int | None


def nofile_limit(pid: int, name: str | None = None) -> NofileLimit:
    """The FD limit of a process. Raises ProcessGone.

    From `/proc/PID/limits`, as it is world-readable, where prlimit(2) is refused across users.
    """
    for line in read_file(pid, "limits", "the limits", name).splitlines():
        if line.startswith(b"Max open files"):
            soft, hard = line.split()[3:5]
            return NofileLimit(_number(soft), _number(hard))
    return NofileLimit(None, None)


def _number(word: bytes) -> int | None:
    return None if word == b"unlimited" else int(word)
