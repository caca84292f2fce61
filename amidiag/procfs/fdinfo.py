"""What `/proc/PID/fdinfo/FD` says of one FD (proc_pid_fdinfo(5)). The kernel answers it alone: it cannot block."""

from __future__ import annotations

import os

# The numbers that are looked for stand in the first lines; an epoll or inotify FD may have thousands more.
_ENOUGH = 1024


def read_fdinfo(pid: int, fd: str | int) -> bytes | None:
    """The beginning of it; None where the FD is closed. Raises OSError where it may not be read."""
    try:
        # Not by open(): its four system calls more are felt at 20,000 FDs.
        file = os.open(f"/proc/{pid}/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, _ENOUGH)
        finally:
            os.close(file)
    except FileNotFoundError:
        return None


def number_in(text: bytes | None, key: bytes) -> int | None:
    """The number after `key` (`b"mnt_id:"`); None where this kernel or this type of FD has none."""
    _, found, rest = (text or b"").partition(key)
    return int(rest.split(None, 1)[0]) if found else None
