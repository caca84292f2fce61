"""Writing a text file whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str, *, mode: int = 0o644) -> None:
    """Replace the content of `path` in one step: no reader, and no full disk, ever leaves half of it.

    An existing file keeps its owner, group and mode, and a symlink stays one: the file that it names
    is replaced. A new file gets `mode`. What fails leaves the old file as it was, and nothing beside it.

    Raises:
        OSError: no such directory, a directory or a device at `path`, a full disk, or a file of
            another user, which only root can give back to its owner.
    """
    place = Path(os.path.realpath(path))
    old = _regular(path)
    handle, name = tempfile.mkstemp(dir=place.parent, prefix=".amidiag-", suffix=".tmp")
    scratch = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - a descriptor, no path
            _dress(handle, old, mode)
            file.write(text)
            file.flush()
            # Where blocks are found only at write-back, here a full disk speaks; and before the old file goes.
            os.fsync(handle)
        scratch.replace(place)
    finally:
        scratch.unlink(missing_ok=True)


def _regular(path: Path) -> os.stat_result | None:
    """What is there now, symlinks followed. A device replaced by a file would be gone: /dev/null, /dev/stdout."""
    try:
        old = path.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return old


def _dress(handle: int, old: os.stat_result | None, mode: int) -> None:
    """Give the new file the owner, group and mode of the old one, before it holds a byte."""
    if old is None:
        os.fchmod(handle, mode)
        return
    new = os.fstat(handle)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        os.fchown(handle, old.st_uid, old.st_gid)
    # After the owner: a change of owner clears mode bits (chown(2)).
    os.fchmod(handle, stat.S_IMODE(old.st_mode))
