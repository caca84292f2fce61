"""Does what it is told on standard input, and says in JSON what came of it: real things for tests to find."""

import ctypes
import json
import mmap
import multiprocessing.synchronize
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any

keep: list[Any] = []
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]


def about(fd: int) -> dict[str, int]:
    info = os.fstat(fd)
    return {"fd": fd, "device": info.st_dev, "inode": info.st_ino}


def pipe() -> Any:
    return [about(fd) for fd in os.pipe()]


def sockets() -> Any:
    keep.append(socket.socketpair())
    return [about(end.fileno()) for end in keep[-1]]


def eventfd() -> Any:
    fd = os.eventfd(0)
    with open(f"/proc/self/fdinfo/{fd}") as info:
        number = next((int(line.split(":")[1]) for line in info if line.startswith("eventfd-id")), -1)
    return {**about(fd), "id": number}


def memfd() -> Any:
    fd = os.memfd_create("batch")
    os.posix_fallocate(fd, 0, 1 << 20)
    return about(fd)


def shm() -> Any:
    name = f"/dev/shm/torch_{os.getpid()}_{time.monotonic_ns()}"
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.posix_fallocate(fd, 0, 1 << 20)
    os.unlink(name)
    return about(fd)


def mapped() -> Any:
    """A segment that no FD holds, mapped twice."""
    made = shm()
    for _ in range(2):
        # Not by the mmap module: that keeps a descriptor of its own.
        address = LIBC.mmap(None, 1 << 20, mmap.PROT_READ, mmap.MAP_SHARED, made["fd"], 0)
        assert address not in (None, 2**64 - 1)
    os.close(made["fd"])
    return made


def file(path: str, fd: str = "") -> Any:
    opened = os.open(path, os.O_CREAT | os.O_RDWR)
    if fd and opened != int(fd):
        os.dup2(opened, int(fd))
        os.close(opened)
        opened = int(fd)
    return about(opened)


def semaphore() -> Any:
    made = multiprocessing.get_context("fork").Semaphore(1)
    keep.append(made)
    return made._semlock.handle  # type: ignore[attr-defined]


def thread() -> Any:
    made = threading.Thread(target=threading.Event().wait, daemon=True)
    made.start()
    return made.native_id


def child() -> Any:
    """A process that is not Python."""
    keep.append(subprocess.Popen(["sleep", "300"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
    return keep[-1].pid


def fork(*commands: str) -> Any:
    """A forked child, which does this and then waits."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, json.dumps([at_once(c) for c in commands]).encode())
        os.close(writer)
        os.close(reader)
        signal.pause()
    os.close(writer)
    answers = json.loads(os.read(reader, 1 << 16))
    os.close(reader)
    return {"pid": pid, "answers": answers}


def take(path: str) -> Any:
    """Map a table, as the tracer does."""
    fd = os.open(path, os.O_RDWR)
    keep.append(mmap.mmap(fd, 0))
    os.close(fd)
    # The mmap module has kept a descriptor: the tracer has none either, but that costs nothing here.
    return path


def close(fd: str) -> Any:
    os.close(int(fd))
    return fd


def same(fd: str, number: str) -> Any:
    os.dup2(int(fd), int(number))
    return about(int(number))


def become(*command: str) -> Any:
    """Another program, by exec."""
    for fd in range(3, 256):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            continue  # Not open.
    os.execvp(command[0], command)


def at_once(line: str) -> Any:
    name, *words = line.split()
    return {"answer": globals()[name](*words), "at": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}


if __name__ == "__main__":
    if len(sys.argv) > 1:  # The user to become, and to remain readable as.
        os.setgroups([])
        os.setgid(int(sys.argv[1]))
        os.setuid(int(sys.argv[1]))
        LIBC.prctl(4, 1)  # PR_SET_DUMPABLE
    print(json.dumps(os.getpid()), flush=True)
    for line in sys.stdin:
        parts = line.split(";")
        if parts[0].split()[0] == "fork":
            answer = {"answer": fork(*parts[1:]), "at": time.clock_gettime_ns(time.CLOCK_BOOTTIME)}
        else:
            answer = at_once(line)
        print(json.dumps(answer), flush=True)
