"""The files that appear in a directory, by inotify(7): soon enough to be there before they are unlinked again."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_IN_CREATE = 0x100
_HEAD = struct.Struct("iIII")  # wd, mask, cookie, length of the name


class NewFiles:
    """Names of files as they are created in `directory`. A context manager. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, bytes(directory), _IN_CREATE) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), str(directory))

    def __enter__(self) -> NewFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop watching."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def names(self, seconds: float) -> Iterator[str]:
        """Those that come first within the time; none where it runs out."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return
        data = os.read(self._fd, 65536)
        at = 0
        while at < len(data):
            *_, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size
            yield data[at : at + length].rstrip(b"\0").decode("utf-8", "surrogateescape")
            at += length
