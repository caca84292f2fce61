"""A file mapped into memory, without a descriptor of it being held.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def map_shared(fd: int, size: int, offset: int = 0) -> memoryview:
    """`size` bytes of a file from `offset` on, a whole number of pages: writable, shared with whoever maps it.

    Unmapped with the last view of it. Up to Python 3.12 `mmap.mmap` keeps a duplicate of `fd`: the program
    would miss a number among its own; and had it closed them all and opened others (a daemon does), then
    unmapping would close one of those.

    Raises OSError; ImportError where a Python before 3.13 was built without ctypes.
    """
    if sys.version_info >= (3, 13):
        import mmap

        return memoryview(mmap.mmap(fd, size, offset=offset, trackfd=False))
    return _map_by_libc(fd, size, offset)


def _map_by_libc(fd: int, size: int, offset: int) -> memoryview:
    import ctypes

    # A library object of our own: the types that others set for its functions are not ours.
    libc: Any = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    read_write, shared = 3, 1
    address = libc.mmap(None, size, read_write, shared, fd, offset)
    if address == ctypes.c_void_p(-1).value:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

    class Pages(ctypes.c_ubyte * size):  # type: ignore[misc]
        """The mapped bytes: every view of them keeps this alive."""

        # As a default, since names are gone when a program ends.
        def __del__(self, unmap: Any = libc.munmap) -> None:
            unmap(address, size)

    return memoryview(Pages.from_address(address)).cast("B")
