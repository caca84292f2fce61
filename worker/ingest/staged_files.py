"""The files of the staging directory: what they are called, whose they must be, and how they are read."""

from __future__ import annotations

import errno
import hashlib
import os
import pwd
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from worker.antenna.schemas import Task
from worker.ingest.download import DownloadError
from worker.ingest.image_key import image_key

IMAGE, ERROR, PARTIAL = ".image", ".error", ".partial"
KEPT_S = 86400.0
FULL = frozenset((errno.ENOSPC, errno.EDQUOT))

_JOB = re.compile(r"job--?\d+")
_FILE = re.compile(r"[0-9a-f]{40}(\.image|\.error|\.[0-9a-f]{16}\.partial)")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class StagingError(Exception):
    """The staging directory cannot be used; the text says why, and what to do."""


def staged_path(directory: Path, job_id: int, task: Task) -> Path:
    """Where the image of a task is staged.

    The name is a hash of the image's id and of its address without query: a signature that is made anew
    for each delivery changes nothing, and no address can be read from a name.
    """
    of = image_key(task).encode("utf-8", "surrogatepass")
    return directory / f"job-{job_id}" / (hashlib.blake2b(of, digest_size=20).hexdigest() + IMAGE)


def error_path(image: Path) -> Path:
    """Where is written why the image of that path could not be had."""
    return image.with_suffix(ERROR)


def read_staged(directory: Path, job_id: int, task: Task) -> bytes | None:
    """The staged file of a task; None where there is none that can be read: it is to be downloaded then.

    Raises:
        DownloadError: its download has failed before; with the text of that failure.
    """
    image = staged_path(directory, job_id, task)
    try:
        folder = os.open(image.parent, _READ | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        data = _read(folder, image.name)
        error = _read(folder, error_path(image).name) if data is None else None
    finally:
        os.close(folder)
    if error is not None:
        raise DownloadError(error.decode("utf-8", "replace"))
    return data


def _read(folder: int, name: str) -> bytes | None:
    try:
        fd = os.open(name, _READ, dir_fd=folder)
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as file:
        try:
            return file.read() if is_ours(os.fstat(fd)) else None
        except OSError:
            return None


def is_ours(info: os.stat_result) -> bool:
    """Whether it is a regular file of this user."""
    return stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid()


def adopt(image: Path) -> bool:
    """Whether a complete image of an earlier run is there and may be used; it counts as new from now on."""
    try:
        info = image.lstat()
        if not is_ours(info) or info.st_mtime < oldest_kept():
            return False
        os.utime(image, follow_symlinks=False)
    except OSError:
        return False
    return True


def oldest_kept() -> float:
    """Files from before that moment (seconds since 1970) are not used any more.

    A day, but not beyond the start of this machine: what a loss of power has left of a file may have its
    name and its length and yet not its content.
    """
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(time.time() - KEPT_S, booted)


def job_directories(directory: Path) -> Iterator[Path]:
    """The jobs that have files here. Raises OSError."""
    for found in list(directory.iterdir()):
        info = _looked_at(found)
        if info and _JOB.fullmatch(found.name) and stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid():
            yield found


def files_in(job_directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The files of this user with names as ours; what vanishes meanwhile is left out. Raises OSError."""
    for found in list(job_directory.iterdir()):
        info = _looked_at(found)
        if info and _FILE.fullmatch(found.name) and is_ours(info):
            yield found, info


def _looked_at(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def prepare(directory: Path) -> None:
    """Make a directory (mode 0700) where there is none, and check that nobody else can change what it holds.

    Raises:
        StagingError: it cannot be made, is a link or no directory, another user's, or open to changes by others.
        OSError: the disk is full (ENOSPC, EDQUOT), or somebody has just removed it: it may be made later.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise StagingError(f"{directory} is no directory: name another one, or remove it") from None
    except OSError as e:
        if e.errno in FULL:
            raise
        raise StagingError(f"{directory} cannot be made: {e.strerror}; name another directory") from None
    info = directory.lstat()
    if stat.S_ISLNK(info.st_mode):
        raise StagingError(f"{directory} is a symbolic link: name the directory that it leads to")
    if info.st_uid != os.geteuid():
        raise StagingError(
            f"{directory} belongs to {_user(info.st_uid)}, and this worker runs as {_user(os.geteuid())}: "
            "name another directory, or make it this user's own (chown)"
        )
    if info.st_mode & 0o022:
        raise StagingError(f"{directory} can be changed by other users: chmod go-w, or name another one")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
