"""What is kept of the shared storages of torch, under both of its sharing strategies.

Standard library only, safe on Python 3.10.
"""

from __future__ import annotations

import os
from posix import fstat, stat

from .trace_layout import KIND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

    from .hook import Note
    from .trace_region import Region

_STORAGE = KIND["storage"]


def _by_fd(region: Region, fd: int, frame: FrameType) -> None:
    _unless_known(region, fd, fstat(fd), frame)


def _by_name(region: Region, name: Any, frame: FrameType) -> None:
    _unless_known(region, -1, stat("/dev/shm" + os.fsdecode(name)), frame)


def _unless_known(region: Region, fd: int, info: os.stat_result, frame: FrameType) -> None:
    # A segment is shared again whenever it is sent.
    if not region.knows(info.st_dev, info.st_ino):
        region.note_mapped(_STORAGE, fd, info.st_dev, info.st_ino, frame)


def notes(storage: Any) -> dict[str, tuple[Note, bool]]:
    """For each method of `torch.UntypedStorage` that makes or takes over shared memory, what to keep; and
    whether it is called without an instance. Raises AttributeError for a torch that has other ones."""
    # Not its own ones, which take a lock: a finalizer that comes in between would wait for itself.
    plain: Any = super(storage, storage)
    share_fd, share_name = plain._share_fd_cpu_, plain._share_filename_cpu_

    def shared(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        _by_fd(region, result[0], frame)

    def named(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        _by_name(region, result[1], frame)

    def made(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        # Of a storage that is shared already this changes nothing, it tells.
        _by_fd(region, share_fd(result)[0], frame)

    def made_named(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        _by_name(region, share_name(result)[1], frame)

    def rebuilt(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        _by_fd(region, args[0], frame)

    def rebuilt_named(region: Region, result: Any, args: tuple[Any, ...], frame: FrameType) -> None:
        _by_name(region, args[1], frame)

    return {
        "_share_fd_cpu_": (shared, False),
        "_share_filename_cpu_": (named, False),
        "_new_using_fd_cpu": (made, True),
        "_new_using_filename_cpu": (made_named, True),
        "_new_shared_fd_cpu": (rebuilt, True),
        "_new_shared_filename_cpu": (rebuilt_named, True),
    }
