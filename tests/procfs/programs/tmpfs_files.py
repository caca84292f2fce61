"""Holds and maps files of directory ARGV[1], and one of ARGV[2] in both ways; says the bytes of the former.

`held` by an FD, `gone` by an FD and unlinked, `mapped` shared and closed, `private` mapped MAP_PRIVATE and closed.
With a third argument it becomes that user before it says so.
"""

import ctypes
import json
import mmap
import os
import sys

MIB = 1 << 20
SIZES = {"held": 2, "gone": 4, "mapped": 3}
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]


def made(path: str, mib: int) -> int:
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    os.posix_fallocate(fd, 0, mib * MIB)
    return fd


def mapped(fd: int, how: int) -> None:
    # Not by the mmap module: that keeps a descriptor of its own.
    assert LIBC.mmap(None, MIB, mmap.PROT_READ, how, fd, 0) not in (None, 2**64 - 1)


there, elsewhere = sys.argv[1:3]
made(f"{there}/held", SIZES["held"])
made(f"{there}/gone", SIZES["gone"])
os.unlink(f"{there}/gone")
for name, how in (("mapped", mmap.MAP_SHARED), ("private", mmap.MAP_PRIVATE)):
    fd = made(f"{there}/{name}", SIZES.get(name, 1))
    mapped(fd, how)
    os.close(fd)
mapped(made(f"{elsewhere}/on_disk", 1), mmap.MAP_SHARED)
if len(sys.argv) > 3:
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
    LIBC.prctl(4, 1)  # PR_SET_DUMPABLE
print(json.dumps({name: mib * MIB for name, mib in SIZES.items()}), flush=True)
sys.stdin.readline()
