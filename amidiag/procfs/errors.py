"""What can stand in the way of an observation, in words that say what to do next.

`explain` is the one place where an errno becomes a meaning. Every error carries `pid`, `name` and
`text`, and survives pickling, because its arguments are exactly these three.
"""

from __future__ import annotations

import errno
import os


class CannotObserve(Exception):  # noqa: N818 - a state to report, in the words of the CLI's exit codes
    """Something about a process could not be read; the base of all errors of this room."""

    def __init__(self, pid: int | None, name: str | None, text: str) -> None:
        super().__init__(pid, name, text)
        self.pid = pid
        self.name = name
        self.text = text

    def __str__(self) -> str:
        return self.text


class ProcessGone(CannotObserve):
    """There is no such process, or it has ended (a zombie has ended), or the PID is another's now."""


class NoPermission(CannotObserve):
    """The process exists and the kernel does not let this user read it (ptrace(2), access modes)."""


class ReaderExhausted(CannotObserve):
    """amidiag itself, not the target, has no free FD left."""


class NotLinux(CannotObserve):
    """There is no `/proc` of a Linux kernel here."""


def subject(pid: int | None, name: str | None) -> str:
    """How a process is called in a sentence: `process 4711 (ami)`; None is the whole machine."""
    if pid is None:
        return "this machine"
    return f"process {pid} ({name})" if name else f"process {pid}"


def gone(pid: int, name: str | None = None, *, was_seen: bool = False) -> ProcessGone:
    """The error for a process that is not there; `was_seen` if it was there a moment ago."""
    fact = f"{subject(pid, name)} has ended" if was_seen else f"there is no {subject(pid, name)}"
    return ProcessGone(
        pid, name, f"{fact}. Give the PID of a running process (`pgrep -af ami` lists workers)."
    )


def explain(error: OSError, pid: int | None, name: str | None, what: str) -> CannotObserve:
    """Say what `error` means that came up while reading `what` ("the FDs") of process `pid`."""
    # EINVAL is what mountinfo says of a process that is ending (fs/proc_namespace.c, mounts_open_common).
    if error.errno in (errno.ENOENT, errno.ESRCH, errno.EINVAL):
        if not os.path.exists("/proc/self/stat"):
            return no_proc()
        if pid is not None:
            return _hidden(pid, name) if _is_hidden(pid) else gone(pid, name, was_seen=name is not None)
    cannot = f"{what} of {subject(pid, name)} cannot be read: "
    if error.errno in (errno.EACCES, errno.EPERM) and pid is not None:
        return NoPermission(pid, name, cannot + who_may_read(pid))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        who = "amidiag itself" if error.errno == errno.EMFILE else "this machine"
        text = cannot + f"{who} has no free FD left. Raise `ulimit -n` where amidiag runs."
        return ReaderExhausted(pid, name, text)
    return CannotObserve(pid, name, cannot + f"{error.strerror or error}.")


def no_proc() -> NotLinux:
    """The error for a system without the `/proc` of Linux."""
    return NotLinux(
        None, None, "no Linux /proc is mounted here. Run amidiag where the worker runs, on Linux."
    )


def _hidden(pid: int, name: str | None) -> NoPermission:
    hint = "hidden from you, as /proc is mounted with hidepid (proc(5)). Run as root or as its user."
    return NoPermission(pid, name, f"{subject(pid, name)} exists and is {hint}")


def _is_hidden(pid: int) -> bool:
    """Whether a process exists that `/proc` does not show. Signal 0 only asks (kill(2))."""
    if pid <= 0 or os.path.exists(f"/proc/{pid}"):
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def who_may_read(pid: int) -> str:
    """Why this user is refused and which user is not, as the end of a sentence."""
    owner, me = _owner(pid), os.geteuid()
    if owner is None:
        return "it belongs to another user. Run as root or as that user."
    if owner != me:
        return f"it belongs to {_user(owner)} and you are {_user(me)}. Run as root or as {_user(owner)}."
    if me == 0:
        return "this machine protects it even from root."
    return f"although it runs as you ({_user(me)}), it has more privileges than you. Run as root."


def _owner(pid: int) -> int | None:
    # Not st_uid of /proc/PID: that is root's for a process that is not dumpable (proc(5)).
    try:
        with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
            _, _, rest = file.read().partition(b"\nUid:")
    except OSError:
        return None  # Ended meanwhile: nobody can be named any more.
    fields = rest.split(None, 2)
    return int(fields[1]) if len(fields) > 1 else None


def _user(uid: int) -> str:
    import pwd  # Here, as most runs never need a name.

    try:
        return f"user {pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
