"""Keeps one program, and ends it with everything that it started: `python -I -S keeper.py PROGRAM ARGS`.

A soak that is killed must leave nothing behind, and a loader process that outlives its worker is no
longer the worker's child. So the program runs below this process, which is the reaper of its
orphans (prctl(2), PR_SET_CHILD_SUBREAPER) and is told by the end of its standard input that the
soak is gone. Standard library only; it talks in lines: in `term`, `kill`; out `pid N`, `exit STATUS`,
`error TEXT`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _say(line: str) -> None:
    # The soak may be gone; what is left to do is to end the program.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, (line + "\n").encode())


def main(command: list[str]) -> None:
    """Start the program, wait for its end or for orders, then end what is left."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=2,  # both into the log
            # This process has one thread, and so may run Python between fork and exec.
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509
        )
    except OSError as e:
        _say(f"error {e.strerror}")
        return
    _say(f"pid {program.pid}")
    _attend(program)
    _sweep()


def _attend(program: subprocess.Popen[bytes]) -> None:
    ended = os.pidfd_open(program.pid)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if ended in ready:
            _say(f"exit {program.wait()}")
            return
        order = os.read(0, 64)
        if b"term" in order:
            program.terminate()
        if b"kill" in order or not order:
            program.kill()
        if not order:
            poll.unregister(0)


def _sweep() -> None:
    """Kill and reap children until there are none: their own children become ours as they die."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as f:
                parent = f.read().rpartition(b")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended meanwhile
        if int(parent) == os.getpid():
            found.append(int(name))
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
