"""A `/dev/shm` of their own for tests: nothing of this machine is ever removed by one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from procfs_targets import Spawn

from amidiag.model import Identity
from amidiag.procfs.identity import identify
from amidiag.procfs.shm_directory import open_shm


class Place:
    """A mount and an IPC namespace with an empty `/dev/shm`, kept by one process that only waits."""

    def __init__(self, spawn: Spawn) -> None:
        script = "mount -t tmpfs none /dev/shm && echo ready && exec cat"
        keeper = spawn(
            ["unshare", "--mount", "--ipc", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout and keeper.stdout.readline() == b"ready\n"
        self.pid = keeper.pid
        self.identity: Identity = identify(keeper.pid)
        self.shm = Path(f"/proc/{keeper.pid}/root/dev/shm")

    def inside(self, *command: str) -> list[str]:
        """A command that runs there."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--ipc", "--", *command]

    def put(self, name: str, size: int = 4096, *, finished: bool = True) -> Path:
        """A file of so many bytes, which nobody has open."""
        fd = os.open(self.shm / name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.ftruncate(fd, size)
        if finished:
            os.posix_fallocate(fd, 0, size)
        os.close(fd)
        return self.shm / name

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor of its `/dev/shm`."""
        with open_shm(self.identity) as directory:
            yield directory


def ended_pid() -> int:
    """The PID of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid
