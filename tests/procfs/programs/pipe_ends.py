"""Holds pipe ends in one constellation, the orphans or their living twin, and waits.

orphans N: N pipes, of which it keeps one end each, alternately the read and the write end.
twins N: the same, but a forked child holds all the other ends.
inherited N: the orphans, and a forked child that holds copies of the same ends.
pairs N: both ends of N pipes.
both_ways N: N pipes, each held by one descriptor opened for reading and writing.
fifos N: N FIFOs opened O_RDWR, and N opened for reading, whose write ends a child holds.
passed SOCKET_FD: sends the write end of a pipe over an inherited unix socket, and keeps the read end.
"""

import array
import json
import os
import signal
import socket
import sys
import tempfile

WHAT, NUMBER = sys.argv[1], int(sys.argv[2])


def wait_for_ever() -> None:
    while True:
        signal.pause()


def halves() -> tuple[list[int], list[int]]:
    keep, drop = [], []
    for number in range(NUMBER):
        ends = os.pipe()
        keep.append(ends[number % 2])
        drop.append(ends[1 - number % 2])
    return keep, drop


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def fork_without(fds: list[int]) -> int:
    """Fork a child that closes its copies of `fds`; return once it has."""
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        close([*fds, done, tell])
        wait_for_ever()
    os.close(tell)
    os.read(done, 1)  # Ends when the child has closed its copy of `tell`, the last.
    os.close(done)
    return child


def main() -> int | None:
    child = None
    if WHAT in ("orphans", "twins", "inherited"):
        keep, drop = halves()
        if WHAT == "inherited":
            close(drop)
        if WHAT != "orphans":
            child = fork_without(keep if WHAT == "twins" else [])
        close(drop if WHAT != "inherited" else [])
    elif WHAT == "pairs":
        for _ in range(NUMBER):
            os.pipe()
    elif WHAT == "both_ways":
        for _ in range(NUMBER):
            ends = os.pipe()
            os.open(f"/proc/self/fd/{ends[0]}", os.O_RDWR)
            close(list(ends))
    elif WHAT == "fifos":
        child = open_fifos()
    elif WHAT == "passed":
        reader, writer = os.pipe()
        with socket.socket(fileno=NUMBER) as channel:
            channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writer]))])
        os.close(writer)
        print(json.dumps({"reader": reader}), flush=True)
        sys.stdin.readline()
    return child


def open_fifos() -> int:
    directory = tempfile.mkdtemp()
    for number in range(2 * NUMBER):
        os.mkfifo(f"{directory}/{number}")
    for number in range(NUMBER):
        os.open(f"{directory}/{number}", os.O_RDWR)
    done, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.closerange(3, 3 + NUMBER)
    else:
        os.close(tell)
    for number in range(NUMBER, 2 * NUMBER):
        os.open(f"{directory}/{number}", os.O_WRONLY if child == 0 else os.O_RDONLY)
    if child == 0:
        close([done, tell])
        wait_for_ever()
    # To open a FIFO returns as soon as the other side has begun to: its FD may not be there yet.
    os.read(done, 1)
    os.close(done)
    return child


print(json.dumps({"child": main()}), flush=True)
sys.stdin.readline()
