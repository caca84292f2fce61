"""Opens COUNT FDs of every usual type, says how many of each, and waits."""

import ctypes
import json
import os
import resource
import select
import socket
import sys
import tempfile
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
DIRECTORY = tempfile.mkdtemp()


def path(number: int) -> str:
    """A name that also tries what is hard to parse."""
    return f"{DIRECTORY}/a file (deleted) pipe:[{number}]\n{number}"


def regular(number: int) -> int:
    return os.open(path(number), os.O_CREAT | os.O_WRONLY)


def same_regular(_: int) -> int:
    return os.open(f"{DIRECTORY}/same.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)


def deleted(number: int) -> int:
    # Of the name of a file that stays: one " (deleted)" is part of the name, the second is the kernel's.
    made = path(number) + " (deleted)"
    opened = os.open(made, os.O_CREAT | os.O_RDWR)
    os.unlink(made)
    return opened


def directory(number: int) -> int:
    made = f"{DIRECTORY}/directory {number % 50}"
    os.makedirs(made, exist_ok=True)
    return os.open(made, os.O_RDONLY)


def deleted_directory(number: int) -> int:
    made = f"{DIRECTORY}/gone {number}"
    os.mkdir(made)
    opened = os.open(made, os.O_RDONLY)
    os.rmdir(made)
    return opened


def fifo(number: int) -> int:
    made = f"{DIRECTORY}/fifo {number}"
    os.mkfifo(made)
    return os.open(made, os.O_RDWR)


def shm(number: int) -> int:
    made = f"/dev/shm/torch_{os.getpid()}_{number}"
    opened = os.open(made, os.O_CREAT | os.O_RDWR | os.O_EXCL)
    os.unlink(made)
    return opened


def signalfd(_: int) -> int:
    return int(LIBC.signalfd(-1, (ctypes.c_ulong * 16)(1 << 9), 0))


def epoll(_: int) -> int:
    made = select.epoll()
    opened = os.dup(made.fileno())
    made.close()
    return opened


MAKERS: dict[str, list[Callable[[int], int]]] = {
    "socket": [lambda _: socket.socket().detach(), lambda _: socket.socketpair()[0].detach()],
    "regular": [regular, same_regular],
    "deleted": [deleted],
    "directory": [directory, deleted_directory],
    "fifo": [fifo],
    "device": [lambda _: os.open("/dev/null", os.O_WRONLY), lambda _: os.open("/dev/urandom", os.O_RDONLY)],
    "eventfd": [lambda _: os.eventfd(0)],
    "eventpoll": [epoll],
    "timerfd": [lambda _: int(LIBC.timerfd_create(1, 0))],
    "signalfd": [signalfd],
    "inotify": [lambda _: int(LIBC.inotify_init())],
    "pidfd": [lambda _: os.pidfd_open(os.getpid())],
    "memfd": [lambda number: os.memfd_create(f"name {number} /dev/shm/x")],
    "shm": [shm],
    "namespace": [lambda _: os.open("/proc/self/ns/net", os.O_RDONLY)],
    "userfaultfd": [lambda _: int(LIBC.syscall(323, 0))],  # x86-64
    "landlock-ruleset": [lambda _: int(LIBC.syscall(444, ctypes.byref(ctypes.c_uint64(1)), 8, 0))],
}
# The kernel limits these per user, or not every kernel has them.
AT_MOST = {"inotify": 20, "userfaultfd": 5, "landlock-ruleset": 5}


def fill(count: int) -> dict[str, int]:
    made: dict[str, int] = {}
    refused = set()
    number = 0
    while sum(made.values()) < count:
        kinds = [
            kind for kind in MAKERS if kind not in refused and made.get(kind, 0) < AT_MOST.get(kind, count)
        ]
        for kind in kinds:
            makers = MAKERS[kind]
            if makers[number % len(makers)](number) < 0:
                refused.add(kind)
            else:
                made[kind] = made.get(kind, 0) + 1
        for _ in range(8):
            os.pipe()
        made["pipe"] = made.get("pipe", 0) + 16
        number += 1
    return made


resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
print(json.dumps(fill(int(sys.argv[1]))), flush=True)
sys.stdin.readline()
