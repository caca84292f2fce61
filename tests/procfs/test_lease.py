"""The kernel's answer to who has a file open, against every way to have it open."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from procfs_targets import Spawn

from amidiag.procfs.lease import FileId, lease

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
NOBODY = 65534


def id_of(path: Path) -> FileId:
    answer = path.lstat()
    return FileId(path.name, answer.st_dev, answer.st_ino, answer.st_ctime_ns)


def ask(path: Path, file: FileId | None = None) -> str:
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_RDONLY)
    try:
        with lease(directory, file or id_of(path)) as held:
            assert held.still_alone() is (held.answer == "nobody")
            return held.answer
    finally:
        os.close(directory)


@pytest.fixture
def path() -> Iterator[Path]:
    file = Path(f"/dev/shm/amidiag-lease-test-{os.getpid()}")
    file.write_bytes(b"x" * 4096)
    yield file
    file.unlink(missing_ok=True)


def test_nobody(path: Path) -> None:
    before = path.stat()
    assert ask(path) == "nobody"
    assert ask(path) == "nobody"
    after = path.stat()
    assert (after.st_ctime_ns, after.st_atime_ns) == (before.st_ctime_ns, before.st_atime_ns)


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_an_open_file_is_somebodys(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    assert ask(path) == "somebody"
    os.close(fd)
    assert ask(path) == "nobody"


@pytest.mark.parametrize("shared", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_a_mapping_without_any_fd_is_somebodys(path: Path, shared: int) -> None:
    fd = os.open(path, os.O_RDONLY)
    address = LIBC.mmap(None, 4096, mmap.PROT_READ, shared, fd, 0)
    os.close(fd)
    assert ask(path) == "somebody"
    LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(4096))
    assert ask(path) == "nobody"


def test_an_fd_on_its_way_through_a_socket_is_somebodys(path: Path) -> None:
    # GIVEN an FD that is in no process's table: no look at /proc can find it
    one, other = socket.socketpair()
    fd = os.open(path, os.O_RDONLY)
    socket.send_fds(one, [b"x"], [fd])
    os.close(fd)
    assert ask(path) == "somebody"
    other.close()
    one.close()
    assert ask(path) == "nobody"


@pytest.mark.root
def test_a_process_of_another_pid_namespace_counts(path: Path, spawn: Spawn) -> None:
    code = "import sys; f = open(sys.argv[1]); print('ready', flush=True); input()"
    holder = spawn(
        ["unshare", "--pid", "--fork", sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout and holder.stdout.readline() == b"ready\n"
    assert ask(path) == "somebody"


def test_another_file_of_the_same_name_is_not_it(path: Path) -> None:
    known = id_of(path)
    path.unlink()
    assert ask(path, known) == "changed"
    path.write_bytes(b"y" * 4096)
    assert ask(path, known) == "changed"
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert ask(path, known) == "changed"
    assert ask(path) == "changed"


def test_a_fifo_is_not_opened(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)
    assert ask(path) == "changed"


@pytest.mark.root
def test_another_users_file_cannot_be_asked(path: Path) -> None:
    path.chmod(0o644)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(0 if ask(path) == "unknown" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
