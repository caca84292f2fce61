"""Results that the server has not taken yet, kept on disk."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from amidiag.target.private_files import private_dir
from worker.antenna.spool_file import KeptPost, decode, encode
from worker.antenna.spool_owner import OwnDirectory
from worker.guard.words import size_in_words
from worker.settings import Problem, SettingsError, WorkerSettings, allowed, env_name, fields

log = logging.getLogger(__name__)

LOCK_LIMIT_S = 5.0

_POST = ".json"
_PARTIAL = ".partial"
_BAD = ".bad"
# So long the room that others take is taken for what it was.
_COUNT_EVERY_S = 5.0
# What is wrong with a disk or a process for a while, and not with the directory that was named.
_FOR_NOW = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
# Posts to another server that lie so long, in seconds, are worked off by nobody.
_FORGOTTEN_S = 3600.0


class FullError(OSError):
    """The spool holds as much as it may."""


class Spool:
    """A directory of posts, one file each, shared by the workers of a host.

    In it there is a directory for each server, and in that one for each worker that lives (`OwnDirectory`). What
    a worker leaves behind is claimed by one of those that come after it. `why` says in one line where it is.

    Used by several threads. Without a directory, or where the disk does not do its part, nothing is kept: that
    is said once, and the results stay in memory.
    """

    def __init__(self, directory: Path | None = None, *, server: str = "", max_bytes: int = 0) -> None:
        """`server`: the base URL. `directory` is made where it is missing.

        Raises:
            OSError: it cannot be used.
        """
        self.directory = directory
        self.why = "results that cannot be posted are kept in memory only"
        self._max_bytes = max_bytes
        self._own: OwnDirectory | None = None
        self._spare: int | None = None
        self._lock = threading.Lock()
        self._kept = 0
        self._counted_at = -_COUNT_EVERY_S
        self._bytes = 0
        self._trouble: str | None = None
        if directory is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._of_server = Path(
                private_dir(str(directory / hashlib.sha256(server.encode()).hexdigest()[:16]))
            )
            self._mine()
            at_most = size_in_words(max_bytes)
            self.why = f"results that cannot be posted are kept in {directory}, up to {at_most}"

    @classmethod
    def of(cls, settings: WorkerSettings) -> Spool:
        """The spool that the settings ask for; where `auto` cannot be had, or the disk is full, that is said in `why`.

        Raises:
            SettingsError: the directory that is named cannot be used, and not for a while only: a worker that ends
                by that is not started again.
        """
        named = settings.worker_spool_dir
        if not named:
            return cls()
        server, max_bytes = settings.antenna_api_base_url, settings.worker_spool_max_bytes
        try:
            directory = _of_this_service() if named == "auto" else Path(named).absolute()
            return cls(directory, server=server, max_bytes=max_bytes)
        except (OSError, RuntimeError) as e:
            # RuntimeError: there is no home directory.
            why = str(e)
            if named != "auto" and getattr(e, "errno", None) not in _FOR_NOW:
                name = env_name("worker_spool_dir")
                raise SettingsError([Problem(name, named, allowed(fields()[name]), why)]) from None
        spool = cls()
        spool.why += f": {why}"
        return spool

    def keep(self, post: KeptPost) -> Path | None:
        """Put a post on disk, whole or not at all. Returns its file; None where it cannot be had."""
        if self.directory is None:
            return None
        data = encode(post)
        try:
            with self._locked():
                path = self._write(data)
        except OSError as e:
            self._say(e)
            return None
        self._trouble = None
        return path

    def read(self, path: Path) -> KeptPost | None:
        """A post that was kept; None where the file is not whole: it is set aside, and that is said.

        Raises:
            OSError: it cannot be read now.
        """
        try:
            with self._locked(), self._opened(path, os.O_RDONLY) as fd, open(fd, "rb", closefd=False) as file:
                data = file.read()
            return decode(data)
        except FileNotFoundError:
            log.error("%s: somebody has removed these results: their tasks are left to redelivery", path)
            return None
        except ValueError as e:
            self._set_aside(path, str(e))
            return None

    def remove(self, path: Path) -> None:
        """A post is with the server, or in other files."""
        try:
            size = path.stat().st_size
            path.unlink()
            self._bytes -= size
        except FileNotFoundError:
            return
        except OSError as e:
            log.warning("%s: cannot be removed, and will be posted again: %s", path, _reason(e))

    def claim(self) -> list[Path]:
        """Take over what workers that live no more have left for this server. Returns the files, oldest first."""
        if self.directory is None:
            return []
        try:
            with self._locked():
                mine = self._mine()
                left = [d for d in self._of_server.iterdir() if d.is_dir() and d != mine.path]
                found = [path for directory in left for path in self._taken_from(directory, mine)]
        except OSError as e:
            log.warning("%s: what earlier workers left there cannot be had: %s", self.directory, _reason(e))
            return []
        self._say_forgotten()
        return sorted(found, key=lambda path: path.name)

    def close(self) -> None:
        """Leave what is there to the next worker. What is kept afterwards goes to a new directory."""
        own, self._own = self._own, None
        if own is not None:
            own.release()
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def _mine(self) -> OwnDirectory:
        if self._own is not None and self._own.is_gone():
            self.close()
        if self._own is None:
            self._own = OwnDirectory.make(self._of_server)
            self._spare = _spare()
            self._sync(self._of_server)
        return self._own

    def _write(self, data: bytes) -> Path:
        mine = self._mine()
        self._make_sure_of_room(len(data))
        # In the order in which they are to be posted, among those of all workers.
        self._kept += 1
        path = mine.path / f"{time.time_ns():020d}-{os.getpid()}-{self._kept:06d}{_POST}"
        partial = path.with_suffix(_PARTIAL)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with self._opened(partial, flags) as fd, open(fd, "wb", closefd=False) as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            partial.rename(path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        os.fsync(mine.fd)
        self._bytes += len(data)
        return path

    def _make_sure_of_room(self, size: int) -> None:
        """By what was counted lately: workers that write in the same seconds may go a little beyond the limit."""
        if time.monotonic() - self._counted_at >= _COUNT_EVERY_S or self._bytes + size > self._max_bytes:
            assert self.directory is not None
            # Without a free FD it cannot be counted: then it is what it was.
            with suppress(OSError):
                self._bytes = sum(_size(path) for path in self.directory.glob(f"*/*/*{_POST}"))
                self._counted_at = time.monotonic()
        if self._bytes + size > self._max_bytes:
            raise FullError(
                f"it is full, AMI_WORKER_SPOOL_MAX_BYTES allows no more than {size_in_words(self._max_bytes)}"
            )

    def _taken_from(self, directory: Path, mine: OwnDirectory) -> Iterator[Path]:
        try:
            theirs = OwnDirectory.claim(directory)
            if theirs is None:
                return
            try:
                for path in sorted(directory.iterdir()):
                    if path.suffix == _POST:
                        path.rename(mine.path / path.name)
                        yield mine.path / path.name
                    elif path.suffix == _PARTIAL:
                        path.unlink()
            finally:
                theirs.release()
        except OSError as e:
            log.warning("%s: what is there cannot be had: %s", directory, _reason(e))

    def _say_forgotten(self) -> None:
        """The address of the server may have been changed."""
        assert self.directory is not None
        before, posts, size = time.time() - _FORGOTTEN_S, 0, 0
        # A worker that ends meanwhile takes its directory away.
        with suppress(OSError):
            for path in self.directory.glob(f"*/*/*{_POST}"):
                if self._of_server not in path.parents and (found := path.stat()).st_mtime < before:
                    posts, size = posts + 1, size + found.st_size
        if posts:
            log.warning(
                "%s: %s posts (%s) to another AMI_ANTENNA_API_BASE_URL lie there for more than an hour: they stay "
                "until a worker with that address starts, and count against AMI_WORKER_SPOOL_MAX_BYTES",
                *(self.directory, posts, size_in_words(size)),
            )

    def _set_aside(self, path: Path, why: str) -> None:
        aside = self._of_server / (path.name + _BAD)
        with suppress(OSError):
            path.rename(aside)
        log.error("%s: no results that can be posted, set aside as %s: %s", path, aside, why)

    def _say(self, error: OSError) -> None:
        why = _reason(error)
        if why != self._trouble:
            self._trouble = why
            log.error("%s: results cannot be kept there, they wait in memory: %s", self.directory, why)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=LOCK_LIMIT_S):
            raise TimeoutError(f"the disk has not answered another thread for {LOCK_LIMIT_S:g} s")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def _opened(self, path: Path, flags: int) -> Iterator[int]:
        """An FD; where there is none left, the one that is kept for this."""
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE) or self._spare is None:
                raise
            os.close(self._spare)
            self._spare = None
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
        try:
            yield fd
        finally:
            os.close(fd)
            if self._spare is None:
                self._spare = _spare()

    @staticmethod
    def _sync(directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _of_this_service() -> Path:
    """systemd names the state directories of a unit, separated by colons (systemd.exec(5))."""
    of_unit = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if of_unit:
        return Path(of_unit)
    of_user = os.environ.get("XDG_STATE_HOME", "")
    # One that is not absolute is to be ignored (XDG base directory specification).
    state = Path(of_user) if Path(of_user).is_absolute() else Path.home() / ".local" / "state"
    return state / "ami-worker"


def _spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
