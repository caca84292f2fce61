"""What `/proc/PID/fdinfo/FD` says of one FD (proc_pid_fdinfo(5)). The kernel answers it alone: it cannot block."""

from __future__ import annotations


def read_fdinfo(pid: int, fd: str | int) -> bytes | None:
    """The text of it; None where the FD is closed. Raises OSError where it may not be read."""
    try:
        with open(f"/proc/{pid}/fdinfo/{fd}", "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        return None


def number_in(text: bytes | None, key: bytes) -> int | None:
    """The number after `key` (`b"mnt_id:"`); None where this kernel or this type of FD has none."""
    _, found, rest = (text or b"").partition(key)
    return int(rest.split(None, 1)[0]) if found else None
