"""The threads of a process by name, state and the kernel function that they wait in."""

from __future__ import annotations

from collections import Counter

from amidiag.model import ThreadGroup
from amidiag.procfs.errors import CannotObserve, ProcessGone, ReaderExhausted, gone
from amidiag.procfs.identity import identify, still
from amidiag.procfs.processes import parse_stat, read_file
from amidiag.procfs.tasks import list_threads


def threads(pid: int, name: str | None = None) -> tuple[ThreadGroup, ...]:
    """All threads with the main one, the largest group first. Raises ProcessGone, ReaderExhausted.

    A name has at most 15 bytes; a thread that was given none has that of its program. torch names its own
    since 2.6 (`pt_data_pin`: the one that pins batches), Python since 3.14. A thread that ends meanwhile
    is left out.
    """
    identity = identify(pid)
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for tid in (pid, *list_threads(pid, name)):
        try:
            stat = parse_stat(tid, read_file(pid, f"task/{tid}/stat", "a thread", name))
        except ProcessGone:
            continue  # This thread alone, or all of it: asked below.
        counts[stat.name, stat.state, _waits_in(pid, tid)] += 1
    if not still(identity):
        raise gone(pid, name, was_seen=True)
    groups = [ThreadGroup(*key, count) for key, count in counts.items()]
    return tuple(
        sorted(groups, key=lambda group: (-group.count, group.name, group.state, group.waits_in or ""))
    )


def _waits_in(pid: int, tid: int) -> str | None:
    """The kernel function that a thread waits in; None where it runs, or the kernel does not say.

    A kernel without symbols, and one that was asked by a user who may not know, writes 0 (fs/proc/base.c,
    proc_pid_wchan).
    """
    try:
        function = read_file(pid, f"task/{tid}/wchan", "the wait channel")
    except ReaderExhausted:
        raise
    except CannotObserve:
        return None  # Ended, not for this user, or not in this kernel.
    return None if function in (b"", b"0") else function.decode("utf-8", "backslashreplace")
