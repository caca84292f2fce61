"""Makes descriptors and shared memory in every way that Python code has, and holds them.

    everything.py METHOD | again

Prints "made" when all is held, "anew" when a part is closed and other things have its FD numbers. After each
it waits for a line. With `again` it only opens things that it has opened already, by other FDs.
"""

# ruff: noqa: SIM115, PLC3002, PLW0108 - nothing is closed here, and places are meant to be odd.

from __future__ import annotations

import asyncio
import contextlib
import mmap
import multiprocessing
import os
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import shared_memory
from typing import Any

HELD: list[Any] = []


def hold(*things: Any) -> None:
    HELD.extend(things)


def by_os() -> None:
    hold(os.pipe(), os.pipe2(os.O_CLOEXEC), os.memfd_create("held"), os.eventfd(3), os.openpty())
    hold(os.open("/dev/shm", os.O_RDONLY))
    shm = f"/dev/shm/attribution-{os.getpid()}"
    hold(os.open(shm, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(shm)
    # Other numbers for what is known: they follow what they are open on.
    hold(os.dup(HELD[0][0]), os.dup(HELD[2]))


def by_socket() -> None:
    hold(socket.socket(), socket.socketpair(), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    hold(server, client, server.accept(), server.dup(), socket.fromfd(server.fileno(), -1, -1))
    one, other = socket.socketpair()
    reading, writing = os.pipe()
    socket.send_fds(one, [b"x"], [reading])
    hold(one, other, writing, socket.recv_fds(other, 1, 1)[1])
    os.close(reading)
    hold(socketserver.ThreadingTCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler))


def by_asyncio() -> None:
    loop = asyncio.new_event_loop()

    async def more() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        hold(server, await asyncio.open_connection(*server.sockets[0].getsockname()))
        await asyncio.sleep(0.05)
        sleeper = await asyncio.create_subprocess_exec(
            "sleep", "600", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        hold(sleeper)

    loop.run_until_complete(more())
    hold(loop)


def by_subprocess() -> None:
    hold(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    code = "import os, sys; held = os.pipe(), os.eventfd(1); print('here', flush=True); sys.stdin.read()"
    python = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert python.stdout and python.stdout.readline() == b"here\n"
    hold(python, os.popen("sleep 600"))


def by_tempfile() -> None:
    hold(tempfile.TemporaryFile(), tempfile.NamedTemporaryFile(), tempfile.TemporaryFile(dir="/dev/shm"))
    hold(tempfile.mkstemp(dir="/dev/shm"))
    os.unlink(HELD[-1][1])


def by_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    hold(context.Pipe(), context.Pipe(duplex=False), context.Queue(), context.SimpleQueue())
    hold(context.Lock(), context.Event(), context.Condition(), context.Barrier(2))
    hold(context.Value("i", 1), context.Array("d", 1000), context.RawArray("b", 10))
    hold(shared_memory.SharedMemory(create=True, size=8192))
    HELD[-1].unlink()
    # A class of the child's own ends up in its loop, with what was handed to it.
    child = context.Process(
        target=in_child, args=(context.Pipe()[0], context.Queue(), context.Lock()), daemon=True
    )
    child.start()
    hold(child, context.Pool(1))
    with_executor = ProcessPoolExecutor(1, mp_context=context)
    assert with_executor.submit(os.getpid).result() > 0
    hold(with_executor, context.Manager())


def in_child(*given: Any) -> None:
    hold(given, os.pipe(), socket.socketpair(), shared_memory.SharedMemory(create=True, size=4096))
    HELD[-1].unlink()
    threading.Event().wait()


def by_fork() -> None:
    if os.fork() == 0:
        hold(os.pipe())
        if os.fork() == 0:
            hold(os.pipe(), os.memfd_create("grandchild"))
            signal.pause()
        hold(os.eventfd(1), socket.socket())
        signal.pause()


class InMany:
    """Places that are not plain functions."""

    at_class_level = os.pipe()

    @property
    def by_property(self) -> tuple[int, int]:
        return os.pipe()

    def __enter__(self) -> int:
        return os.eventfd(0)

    def __exit__(self, *_: object) -> None: ...


def generated() -> Iterator[Any]:
    yield os.pipe()
    yield socket.socket(
        socket.AF_UNIX,
        socket.SOCK_STREAM,
    )


@contextlib.contextmanager
def managed() -> Iterator[Any]:
    yield os.memfd_create("managed")


def deep(frames: int) -> Any:
    return deep(frames - 1) if frames else os.pipe()


def by_odd_places() -> None:
    many = InMany()
    hold(many.by_property, [os.pipe() for _ in range(3)], *generated(), deep(40))
    with many as event, managed() as memory:
        hold(event, memory)
    hold((lambda: os.pipe())())
    exec("import os\nheld = os.pipe()", scope := {})
    hold(scope)
    hold(list(map(os.eventfd, [0, 0])), sorted([1], key=lambda _: hold(os.pipe()) or 0))

    def handler(*_: object) -> None:
        hold(os.pipe())

    signal.signal(signal.SIGUSR1, handler)
    signal.raise_signal(signal.SIGUSR1)
    hold(Finalized() and None)


class Finalized:
    def __del__(self) -> None:
        hold(os.pipe())


def by_threads() -> None:
    def work(make: Callable[[], Any]) -> None:
        for _ in range(5):
            hold(make())

    ways: list[Callable[[], Any]] = [
        os.pipe,
        socket.socketpair,
        lambda: os.eventfd(1),
        lambda: os.memfd_create("x"),
    ]
    threads = [threading.Thread(target=work, args=(way,)) for way in ways for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def by_opening_again() -> None:
    """What is one and the same, by several FDs that were each opened."""
    shm = f"/dev/shm/attribution-again-{os.getpid()}"
    hold(os.open(shm, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    hold(open(shm, "rb"))
    os.unlink(shm)
    shared = shared_memory.SharedMemory(create=True, size=8192)
    hold(shared, shared_memory.SharedMemory(shared.name))
    shared.unlink()
    hold(os.pidfd_open(os.getpid()))
    os.close(os.pidfd_open(os.getpid()))


def not_watched() -> None:
    """What no hook sees: it must stand in the row of what was not seen."""
    hold(mmap.mmap(-1, 8192), os.dup(HELD[3]))


def wait(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def main() -> None:
    if sys.argv[1] == "again":
        by_opening_again()
        wait("made")
        return
    for make in (
        by_os,
        by_socket,
        by_asyncio,
        by_subprocess,
        by_tempfile,
        by_odd_places,
        by_fork,
        by_threads,
    ):
        make()
    by_multiprocessing(sys.argv[1])
    not_watched()
    wait("made")
    for fds in HELD[:3]:
        for fd in fds if isinstance(fds, tuple) else (fds,):
            os.close(fd)
    # Under the numbers that were just closed.
    hold(os.eventfd(9), socket.socketpair(), os.memfd_create("anew"), os.pipe())
    wait("anew")
    os._exit(0)


if __name__ == "__main__":
    main()
