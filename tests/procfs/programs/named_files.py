"""Opens files that belong together to a person, and one of every odd kind that the kernel gives; waits.

Says which odd kinds there are: type, and what it is called.
"""

import ctypes
import json
import os
import sys
import tempfile

LIBC = ctypes.CDLL(None, use_errno=True)
DIRECTORY = tempfile.mkdtemp()
PAGE = 4096


def many(directory: str, number: int, flags: int) -> None:
    os.mkdir(directory)
    for count in range(number):
        os.open(f"{directory}/{count}.jpg", os.O_CREAT | flags)


def segments(prefix: str, number: int) -> None:
    for count in range(number):
        path = f"/dev/shm/{prefix}{os.getpid()}_{count}"
        held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_EXCL)
        os.write(held, bytes(PAGE))
        # The same again: it has the same memory.
        os.dup(held)
        os.unlink(path)


def deleted(path: str) -> None:
    os.open(path, os.O_CREAT | os.O_RDWR)
    os.unlink(path)


def memfd(name: str) -> None:
    os.write(os.memfd_create(name), bytes(PAGE))


def odd() -> dict[str, list[str]]:
    """By name of a system call (x86-64): type and name, where this kernel and user may."""
    block = ctypes.create_string_buffer(120)
    attributes = (ctypes.c_uint32 * 12)(2, 4, 4, 1)  # BPF_MAP_TYPE_ARRAY of one number
    calls = {
        "io_uring_setup": (["io_uring", "io_uring"], 425, (1, block)),
        "fanotify_init": (["fanotify", "fanotify"], 300, (0, 0)),
        "bpf": (["bpf", "bpf-map"], 321, (0, attributes, ctypes.sizeof(attributes))),
        "memfd_secret": (["secretmem", "/secretmem (deleted)"], 447, (0,)),
        "userfaultfd": (["userfaultfd", "userfaultfd"], 323, (1,)),
    }
    return {call: kind for call, (kind, number, words) in calls.items() if LIBC.syscall(number, *words) >= 0}


many(f"{DIRECTORY}/images", 20, os.O_RDONLY)
many(f"{DIRECTORY}/logs", 3, os.O_WRONLY)
segments("torch_", 12)
segments("psm_", 2)
deleted(f"{DIRECTORY}/gone")
memfd("arena")
memfd("arena")
for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
    os.open("/dev/null", flags)
os.open(DIRECTORY, os.O_PATH)
print(json.dumps({"directory": DIRECTORY, "odd": odd()}), flush=True)
sys.stdin.readline()
