"""Single processes: `/proc/PID/stat` and `cmdline`, and the list of all PIDs."""

from __future__ import annotations

import os
from typing import NamedTuple

from amidiag.procfs.errors import ProcessGone, explain

PF_KTHREAD = 0x00200000  # include/linux/sched.h
ENDED_STATES = frozenset("ZXx")


class ProcStat(NamedTuple):
    """What `/proc/PID/stat` says (proc_pid_stat(5)). World-readable.

    `name` is the name of the main thread, at most 15 bytes; `start_ticks` are clock ticks since boot.
    """

    pid: int
    name: str
    state: str
    parent_pid: int
    threads: int
    start_ticks: int
    kernel_thread: bool

    @property
    def ended(self) -> bool:
        """A zombie: it holds neither FDs nor memory and only waits for its parent."""
        return self.state in ENDED_STATES


def read_file(pid: int, file: str, what: str, name: str | None = None) -> bytes:
    """Content of `/proc/PID/FILE`. Raises the errors of `errors.explain`, which call it `what`."""
    try:
        with open(f"/proc/{pid}/{file}", "rb", buffering=0) as opened:
            return opened.read()
    except OSError as error:
        raise explain(error, pid, name, what) from error


def read_stat(pid: int) -> ProcStat:
    """Read `/proc/PID/stat`. Raises ProcessGone where there is none."""
    return parse_stat(pid, read_file(pid, "stat", "the state"))


def parse_stat(pid: int, data: bytes) -> ProcStat:
    """Parse one line of `/proc/PID/stat`. The name may hold spaces and parentheses: the last one ends it."""
    start, end = data.index(b"("), data.rindex(b")")
    fields = data[end + 2 :].split()
    return ProcStat(
        pid=pid,
        name=data[start + 1 : end].decode("utf-8", "backslashreplace"),
        state=fields[0].decode("ascii"),
        parent_pid=int(fields[1]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        kernel_thread=bool(int(fields[6]) & PF_KTHREAD),
    )


def can_hold(pid: int) -> bool:
    """Whether it can hold FDs or mappings. Kernel threads and zombies cannot; to be refused by them is no gap."""
    try:
        stat = read_stat(pid)
    except ProcessGone:
        return False
    return not (stat.kernel_thread or stat.ended)


def effective_uid(pid: int) -> int:
    """The effective user of a process, to whom the files belong that it makes. Raises ProcessGone, ReaderExhausted."""
    # Not st_uid of /proc/PID: that is root's for a process that is not dumpable (proc(5)).
    _, _, rest = read_file(pid, "status", "the status").partition(b"\nUid:")
    return int(rest.split(maxsplit=2)[1])


def path_from_here(pid: int, path: str) -> str:
    """The path of a process as it leads there from here: the process may see other mounts."""
    there = f"/proc/{pid}/root{path}"
    return there if os.path.exists(there) else path


def read_cmdline(pid: int) -> tuple[str, ...]:
    """The arguments of a process; empty for kernel threads and zombies. Raises ProcessGone."""
    data = read_file(pid, "cmdline", "the command line")
    if not data:
        return ()
    return tuple(part.decode("utf-8", "backslashreplace") for part in data.rstrip(b"\0").split(b"\0"))


def all_pids() -> list[int]:
    """PIDs of every process that `/proc` shows to this user. Raises ReaderExhausted, NotLinux."""
    try:
        return [int(entry) for entry in os.listdir("/proc") if entry[0] in "123456789"]
    except OSError as error:
        raise explain(error, None, None, "the list of processes") from error


def snapshot() -> dict[int, ProcStat]:
    """The state of every visible process, by PID. What ends meanwhile is left out."""
    stats = {}
    for pid in all_pids():
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
                stats[pid] = parse_stat(pid, file.read())
        except (FileNotFoundError, ProcessLookupError):
            continue  # It ended since the listing.
        except OSError as error:
            raise explain(error, pid, None, "the state") from error
    return stats
