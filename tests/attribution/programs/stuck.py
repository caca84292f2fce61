"""Opens what it is told to, each sort in a function of its own, then is stuck.

    stuck.py STATE

at_limit: leaks pipes until no FD is left, fails three times more, and waits in a read. loader: a DataLoader
whose loader process is stopped, waiting for its queue. queue: a queue that nobody fills. gil: in C for 30 s
with the GIL held, while a thread that wants to print cannot. stopped: by SIGSTOP, sent by itself. waiting: in
a read. How many FDs each function has opened is printed before, as JSON in one line.
"""

from __future__ import annotations

import ctypes
import errno
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from multiprocessing import shared_memory
from typing import Any

HELD: list[Any] = []
PIPES, SOCKETS, EVENTS, SEGMENTS = 150, 40, 25, 10


def make_pipes() -> None:
    for _ in range(PIPES):
        HELD.append(os.pipe())


def make_sockets() -> None:
    for _ in range(SOCKETS):
        HELD.append(socket.socket())


def make_events() -> None:
    for _ in range(EVENTS):
        HELD.append(os.eventfd(0))


def make_segments() -> None:
    for _ in range(SEGMENTS):
        HELD.append(shared_memory.SharedMemory(create=True, size=4096))
        HELD[-1].unlink()


def leak_pipes() -> int:
    """Until there are no FDs; three failures more. Gives how many pipes there are."""
    made = failures = 0
    while failures < 4:
        try:
            HELD.append(os.pipe())
            made += 1
        except OSError as error:
            assert error.errno == errno.EMFILE
            failures += 1
    return made


def say(**opened: int) -> None:
    print(json.dumps(opened), flush=True)


def wait_for_loader() -> None:
    from torch.utils.data import DataLoader

    batches = iter(DataLoader(Numbers(), num_workers=1, multiprocessing_context="fork", prefetch_factor=1))
    next(batches)
    os.kill(batches._workers[0].pid, signal.SIGSTOP)
    for _ in batches:
        pass


def tick() -> None:
    while True:
        time.sleep(0.05)
        print("tick", flush=True)


class Numbers:
    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> int:
        return index


def main() -> None:
    state = sys.argv[1]
    if state == "at_limit":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, hard), hard))
        say(leak_pipes=2 * leak_pipes())
        sys.stdin.readline()
        return
    make_pipes()
    make_sockets()
    make_events()
    make_segments()
    # A pipe has two ends; of a segment the mapping of Python holds an FD as well.
    say(make_pipes=2 * PIPES, make_sockets=SOCKETS, make_events=EVENTS, make_segments=2 * SEGMENTS)
    if state == "loader":
        wait_for_loader()
    elif state == "queue":
        multiprocessing.Queue().get()
    elif state == "gil":
        threading.Thread(target=tick, daemon=True).start()
        # PyDLL does not release it.
        ctypes.PyDLL(None).sleep(30)
    elif state == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        sys.stdin.readline()


if __name__ == "__main__":
    main()
