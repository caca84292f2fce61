"""Holds shared memory of every kind, in MiB given below, alone or with forked children, and waits.

Two children inherit all mappings and FDs. Says its sizes. With "--kinds-only" no children.
"""

import ctypes
import json
import mmap
import os
import signal
import sys

MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
# A segment of 64 MiB of which only 5 are touched: allocated counts, size does not.
SIZES = {"torch": 7, "posix": 3, "memfd": 6, "sysv": 4, "anonymous": 5}
keep: list[object] = []


def file_of(name: str, mib: int) -> int:
    fd = os.open(f"/dev/shm/{name}", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.posix_fallocate(fd, 0, mib * MIB)
    os.unlink(f"/dev/shm/{name}")
    return fd


def torch_held_only_by_fd() -> None:
    file_of(f"torch_{os.getpid()}_1_0", SIZES["torch"])


def posix_mapped_and_closed() -> None:
    fd = file_of(f"psm_{os.getpid()}", SIZES["posix"])
    # Not by the mmap module: that keeps a descriptor of its own.
    address = LIBC.mmap(None, SIZES["posix"] * MIB, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd, 0)
    assert address not in (None, 2**64 - 1)
    os.close(fd)


def memfd_mapped_and_held() -> None:
    fd = os.memfd_create("batch")
    os.posix_fallocate(fd, 0, SIZES["memfd"] * MIB)
    keep.append(mmap.mmap(fd, SIZES["memfd"] * MIB))


def sysv() -> None:
    segment = LIBC.shmget(0, SIZES["sysv"] * MIB, 0o1600)
    address = LIBC.shmat(segment, None, 0)
    LIBC.shmctl(segment, 0, None)  # IPC_RMID: it goes with its last user.
    ctypes.memset(address, 1, SIZES["sysv"] * MIB)


def anonymous_and_sparse() -> None:
    shared = mmap.mmap(-1, 64 * MIB)
    shared[: SIZES["anonymous"] * MIB] = bytes(SIZES["anonymous"] * MIB)
    keep.append(shared)


for make in (
    torch_held_only_by_fd,
    posix_mapped_and_closed,
    memfd_mapped_and_held,
    sysv,
    anonymous_and_sparse,
):
    make()
if len(sys.argv) > 1:  # The user to become, and to remain readable as.
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
    LIBC.prctl(4, 1)  # PR_SET_DUMPABLE
else:
    for _ in range(2):
        if os.fork() == 0:
            signal.pause()
print(json.dumps({kind: mib * MIB for kind, mib in SIZES.items()}), flush=True)
sys.stdin.readline()
