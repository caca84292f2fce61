"""The threads of a process, and the numbers by which it knows itself and them inside a PID namespace."""

from __future__ import annotations

import os

from amidiag.procfs.errors import ProcessGone, explain
from amidiag.procfs.processes import parse_stat, read_file


def list_threads(pid: int, name: str | None = None) -> list[int]:
    """The numbers (TIDs) of all threads but the main one. Raises ProcessGone, ReaderExhausted."""
    try:
        tids = [int(entry) for entry in os.listdir(f"/proc/{pid}/task")]
    except OSError as error:
        raise explain(error, pid, name, "the threads") from error
    return [tid for tid in tids if tid != pid]


def thread_start_ticks(pid: int, tid: int) -> int | None:
    """When a thread was started, in clock ticks since boot; None if it has ended. Raises ReaderExhausted."""
    try:
        return parse_stat(tid, read_file(pid, f"task/{tid}/stat", "a thread")).start_ticks
    except ProcessGone:
        return None


def namespace_pids(pid: int, name: str | None = None) -> tuple[int, ...]:
    """The numbers of a process in the PID namespaces from ours to its own: the last is what it calls itself.

    Raises ProcessGone, ReaderExhausted.
    """
    return _ns_pids(read_file(pid, "status", "the status", name)) or (pid,)


def namespace_tid(pid: int, tid: int) -> int | None:
    """What a thread calls itself in its own PID namespace; None if it has ended. Raises ReaderExhausted."""
    try:
        numbers = _ns_pids(read_file(pid, f"task/{tid}/status", "a thread"))
    except ProcessGone:
        return None
    return numbers[-1] if numbers else tid


def _ns_pids(status: bytes) -> tuple[int, ...]:
    _, _, rest = status.partition(b"\nNSpid:")  # proc_pid_status(5)
    return tuple(map(int, rest.partition(b"\n")[0].split()))
